"""Official scores of data sets, compared with their definitions on files in the published layout."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import trapezoid
from sklearn.metrics import f1_score, roc_auc_score

from lit_ad.data import AnomalyDataModule, Loading, MVTec, MVTecAD2, MVTecLOCO
from lit_ad.detector.decision import Decision
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.results import Official, Results
from lit_ad.metrics import AUPRO

LOCO = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
IDS = {200: (0.5, True), 201: (20, False)}  # of defects_config.json


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    """Two categories of grey noise in the layout of MVTec LOCO AD, with one or two defects in an image."""
    generator = np.random.default_rng(0)
    config = [
        {"defect_name": str(i), "pixel_value": i, "saturation_threshold": t, "relative_saturation": r}
        for i, (t, r) in IDS.items()
    ]
    for category, brightness in (("juice", 90), ("screws", 110)):
        root = tmp_path / "loco" / category
        for folder, count in (
            *(("train/good", 4), ("validation/good", 3), ("test/good", 5)),
            *((f"test/{kind}", 3) for kind in LOCO),
        ):
            for i in range(count):
                pixels = generator.normal(brightness, 25, (24, 36))
                for j in range(1 + i % 2 if "anomalies" in folder else 0):
                    mask = np.zeros((24, 36), np.uint8)
                    mask[4 + 6 * j : 9 + 7 * j, 3 : 9 + i] = 200 + j
                    pixels[mask > 0] += 40 if "logical" in folder else 70
                    truth = root / "ground_truth" / folder.removeprefix("test/") / f"{i:03}"
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{j:03}.png")
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / f"{i:03}.png")
        (root / "defects_config.json").write_text(json.dumps(config))
    return tmp_path / "loco"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def measured(source: Any, home: Path, brightness: Any, quiet_trainer: Any, **kwargs: Any) -> Results:
    model, evaluation = brightness(), Evaluation(**kwargs)
    model.decision = Decision({"": [0.5]}, {"": [0.6]}, {"": [0.4]})  # type: ignore[dict-item]
    data = AnomalyDataModule(source, model.view, loading=Loading(num_workers=0))
    quiet_trainer(home, evaluation).test(model, data, verbose=False)
    assert evaluation.results is not None
    return evaluation.results


def spro(root: Path, kind: str, limit: float) -> float:
    """Compute sPRO by its definition, at every grey value that a score may have."""
    nominal, channels = [read(path).ravel() for path in sorted((root / "test/good").iterdir())], []
    for path in sorted((root / "test" / kind).iterdir()):
        image, covered = read(path), np.zeros((24, 36), bool)
        for file in sorted((root / "ground_truth" / kind / path.stem).iterdir()):
            mask = read(file)
            threshold, relative = IDS[int(mask.max())]
            area = int((mask > 0).sum())
            channels.append((image[mask > 0], int(threshold * area) if relative else min(threshold, area)))
            covered |= mask > 0
        nominal.append(image[~covered])
    x, y = [], []
    for threshold in range(255, -2, -1):
        x.append(float(np.mean(np.concatenate(nominal) > threshold)))
        y.append(float(np.mean([min(np.sum(values > threshold) / s, 1) for values, s in channels])))
    ends = [value for value in x if value < limit]
    return float(trapezoid([*y[: len(ends)], np.interp(limit, x, y)], [*ends, limit]) / limit)


def test_mvtec_loco_by_its_own_rules(
    loco: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, capsys: Any
) -> None:
    results = measured(MVTecLOCO(loco), tmp_path / "run", brightness, quiet_trainer)
    assert results.official is not None
    rows = results.official.rows
    assert list(rows) == ["juice/", "screws/", "mean"]
    for category in ("juice", "screws"):
        row, root = rows[f"{category}/"], loco / category
        for kind, name in LOCO.items():
            good, bad = ([read(p).max() for p in sorted((root / "test" / k).iterdir())] for k in ("good", kind))
            expected = roc_auc_score([0] * len(good) + [1] * len(bad), good + bad)
            assert row[f"image_auroc_{name}"] == pytest.approx(expected)
            for key, limit in (("spro_01", 0.01), ("spro_05", 0.05), ("spro_30", 0.3), ("spro_100", 1.0)):
                assert row[f"{key}_{name}"] == pytest.approx(spro(root, kind, limit), abs=1e-9), (key, name)
        for key in ("image_auroc", "spro_05", "spro_10"):  # not pooled
            assert row[key] == pytest.approx((row[f"{key}_logical"] + row[f"{key}_structural"]) / 2)
        assert row["spro_05"] < row["spro_30"] < 1 and row["spro_05_error_bound"] < 1e-9
    assert rows["mean"]["spro_05"] == pytest.approx((rows["juice/"]["spro_05"] + rows["screws/"]["spro_05"]) / 2)
    saved = json.loads((tmp_path / "run/metrics.json").read_text())["official"]
    assert saved["name"] == "MVTec LOCO AD" and saved["rows"] == rows and saved["remarks"] == []
    assert saved["metrics"]["spro_05"].startswith("area under the saturated per-region overlap up to a false positive ")
    assert Results.load(tmp_path / "run/metrics.json").official == results.official
    shown = capsys.readouterr().out
    assert "By the rules of MVTec LOCO AD:" in shown and f"{rows['mean']['spro_05_logical']:.4f}" in shown
    assert "spro_05: area under" in shown and "spro_10" not in shown and "error_bound" not in shown


def test_a_single_category_with_merged_masks(loco: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    root = loco / "juice"
    whole = measured(MVTecLOCO(root), tmp_path / "whole", brightness, quiet_trainer)
    for file in (root / "ground_truth").rglob("*.png"):
        Image.fromarray((read(file) > 0).astype(np.uint8) * 255).save(file)
    merged = measured(MVTecLOCO(root), tmp_path / "merged", brightness, quiet_trainer)
    assert whole.official is not None and merged.official is not None
    assert list(merged.official.rows) == ["juice/"]
    assert merged.rows == whole.rows  # the other metrics are there
    of_merged, of_whole = merged.official.rows["juice/"], whole.official.rows["juice/"]
    assert np.isnan(of_merged["spro_05"]) and of_merged["image_auroc"] == of_whole["image_auroc"]
    (said,) = merged.official.remarks
    assert said.startswith("juice: no sPRO, since its masks are merged")
    assert said in merged.table()


def test_without_full_resolution_there_are_no_figures(
    loco: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    results = measured(MVTecLOCO(loco), tmp_path / "run", brightness, quiet_trainer, eval_size=16)
    assert results.official is not None and results.official.rows == {}
    assert "no figures: these rules need all pixels at full resolution" in results.table()


def test_other_sources_have_no_rules(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    results = measured(MVTec(parts), tmp_path / "run", brightness, quiet_trainer)
    assert results.official is None and "By the rules" not in results.table()
    assert "official" not in json.loads((tmp_path / "run/metrics.json").read_text())


def test_missing_values_are_empty_cells() -> None:
    official = Official("X", {"a": "made so"}, ["a"], {"c/": {"a": float("nan"), "a_b": 0.5}}, ["left out"])
    lines = official.table().splitlines()
    assert [line.split() for line in lines[:3]] == [["By", "the", "rules", "of", "X:"], ["a", "a_b"], ["c/", "0.5000"]]
    assert lines[3:] == ["a: made so", "left out"]


@pytest.fixture
def ad2(parts: Path, tmp_path: Path) -> Path:
    """The images of `parts` in the published layout of MVTec AD 2."""
    for category in ("bolt", "nut"):
        root = tmp_path / "ad2" / category
        folders = {"train/good": "train/good", "validation/good": "train/good", "test_public/good": "test/good"}
        for to, kind in folders.items():
            (root / to).mkdir(parents=True)
            for i, file in enumerate(sorted((parts / category / kind).iterdir())):
                copy(file, root / to / f"{i:03}_regular.png")
        truth = root / "test_public/ground_truth/bad"
        truth.mkdir(parents=True)
        (root / "test_public/bad").mkdir()
        for file in sorted((parts / category / "test/dent").iterdir()):
            copy(file, root / f"test_public/bad/{file.stem}_regular.png")
            copy(parts / category / f"ground_truth/dent/{file.stem}_mask.png", truth / f"{file.stem}_regular_mask.png")
    return tmp_path / "ad2"


def test_mvtec_ad_2_by_its_own_rules(ad2: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """The figures of each object and their mean."""
    results = measured(MVTecAD2(ad2), tmp_path / "run", brightness, quiet_trainer)
    assert results.official is not None
    rows = results.official.rows
    assert list(rows) == ["bolt/", "nut/", "mean"]
    for category in ("bolt", "nut"):
        test = ad2 / category / "test_public"
        files = [*sorted((test / "good").iterdir()), *sorted((test / "bad").iterdir())]
        found = [read(file) / 255 > 0.6 for file in files]
        labels = [file.parent.name == "bad" for file in files]
        truth = [
            read(test / f"ground_truth/bad/{file.stem}_mask.png") > 0 if bad else np.zeros((24, 36), bool)
            for file, bad in zip(files, labels, strict=True)
        ]
        row = rows[f"{category}/"]
        assert set(row) == {"aupro_05", "seg_f1", "class_f1"}
        assert row["seg_f1"] == pytest.approx(f1_score(np.ravel(truth), np.ravel(found)))
        assert row["class_f1"] == pytest.approx(f1_score(labels, [mask.any() for mask in found]))
        single = AUPRO(0.05)
        for file, mask in zip(files, truth, strict=True):
            single.update(torch.from_numpy(read(file) / np.float32(255)), torch.from_numpy(mask))
        assert row["aupro_05"] == pytest.approx(float(single.compute()), abs=1e-6)
    for name, value in rows["mean"].items():
        assert value == pytest.approx((rows["bolt/"][name] + rows["nut/"][name]) / 2)
    assert "that is set without test images" in results.table()


SCRIPT = """
    import sys
    from pathlib import Path

    import lightning as L

    sys.path.insert(0, sys.argv[1])
    from conftest import Brightness
    from lit_ad.evaluation import Evaluation
    from lit_ad.data import AnomalyDataModule, Loading, MVTecAD2, MVTecLOCO
    from lit_ad.detector.decision import Decision

    for kind, root, home in ((MVTecLOCO, sys.argv[2], "loco"), (MVTecAD2, sys.argv[3], "ad2")):
        model = Brightness()
        model.decision = Decision({"": [0.5]}, {"": [0.6]}, {"": [0.4]})
        data = AnomalyDataModule(kind(Path(root)), model.view, loading=Loading(num_workers=0))
        quiet = {"logger": False, "enable_model_summary": False}
        processes = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
        places = {"default_root_dir": Path(sys.argv[4], home), "callbacks": [Evaluation()]}
        L.Trainer(**places, **processes, **quiet).test(model, data, verbose=False)
"""


def test_two_processes_give_the_figures_of_one(
    loco: Path, ad2: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    (loco / "juice/test/good/004.png").unlink()  # 2 divides neither number of images
    (ad2 / "nut/test_public/good/004_regular.png").unlink()
    for source, home in ((MVTecLOCO(loco), "loco"), (MVTecAD2(ad2), "ad2")):
        measured(source, tmp_path / "one" / home, brightness, quiet_trainer)
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments: list[str | Path] = [sys.executable, tmp_path / "script.py", Path(__file__).parents[1]]
    arguments += [loco, ad2, tmp_path / "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    processes = [
        subprocess.Popen(
            arguments, env={**environment, "LOCAL_RANK": str(rank)}, stdout=log.open("w"), stderr=subprocess.STDOUT
        )
        for rank, log in enumerate(logs)
    ]
    try:
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(1500) == 0, log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    for home, name in (("loco", "spro_05"), ("ad2", "seg_f1")):
        one, two = (json.loads((tmp_path / n / home / "metrics.json").read_text()) for n in ("one", "two"))
        assert len(one["images"]) % 2 == 1 and 0 < one["official"]["rows"]["mean"][name] < 1
        assert two == one
