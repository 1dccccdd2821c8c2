"""The archive for MVTec AD 2's benchmark, from a model that was trained in the usual way."""

import io
import tarfile
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lit_ad import Detector, methods
from lit_ad.commands.submission import submission, to_float16
from lit_ad.data import AnomalyDataModule, Loading, MVTecAD2
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.training import Calibration

PRIVATE = {
    "test_private/000_regular": (40, 60),
    "test_private/001_regular": (50, 50),
    "test_private_mixed/000_mixed": (30, 70),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects of MVTec AD 2, without a public test."""
    root, generator = tmp_path_factory.mktemp("ad2"), np.random.default_rng(0)
    for name in ("rice", "vial"):
        files = {f"train/good/{i:03}_regular": (40, 60) for i in range(4)}
        files |= {f"validation/good/{i:03}_regular": (40, 60) for i in range(3)}
        for file, size in (files | PRIVATE).items():
            path = root / name / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def run(objects: Path, small_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STFPM of both objects."""
    home = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = methods.STFPM(**{k: v for k, v in small_models["STFPM"]["init_args"].items() if k != "view"}, view=View(64))
    data = AnomalyDataModule(MVTecAD2(objects), model.view, batch_size=4, loading=Loading(num_workers=0))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        default_root_dir=home,
        max_epochs=1,
        accelerator="cpu",
        enable_checkpointing=False,
        callbacks=[Calibration(0.5)],
        **quiet,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(home / "checkpoints/best.ckpt")
    return home


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, "r:gz") as file:
        return {entry.name: file.extractfile(entry).read() for entry in file.getmembers()}  # type: ignore[union-attr]


def test_the_archive_holds_maps_and_masks_and_nothing_else(
    run: Path, objects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, detector = tmp_path / "mine.tar.gz", Detector.load(run)
    submission(run, objects, output)
    found = members(output)
    assert set(found) == {
        f"{kind}/{name}/{image}{suffix}"
        for name in ("rice", "vial")
        for image in PRIVATE
        for kind, suffix in (("anomaly_images", ".tiff"), ("anomaly_images_thresholded", ".png"))
    }
    for name in ("rice", "vial"):
        threshold = detector.card.decision.pixel_threshold(name)  # type: ignore[union-attr]
        for image, size in PRIVATE.items():
            judged = detector(objects / name / f"{image}.png", name)
            heat = tifffile.imread(io.BytesIO(found[f"anomaly_images/{name}/{image}.tiff"]))
            assert heat.dtype == np.float16 and heat.shape == size and np.isfinite(heat).all()
            assert heat == pytest.approx(judged.anomaly_map, rel=1e-3, abs=1e-6)
            mask = Image.open(io.BytesIO(found[f"anomaly_images_thresholded/{name}/{image}.png"]))
            assert judged.anomaly_map is not None and threshold is not None
            assert mask.mode == "L" and set(np.unique(np.asarray(mask))) <= {0, 255}
            assert np.array_equal(np.asarray(mask) == 255, judged.anomaly_map > threshold)
    said = capsys.readouterr().out
    assert "rice: 3 images, pixel threshold " in said and "2 of the 8 objects" in said
    with pytest.raises(UserError, match="exists already"):
        submission(run, objects, output)


def test_a_model_for_each_object(run: Path, objects: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "rice").symlink_to(run)
    with pytest.raises(UserError, match=r"no model for vial in .*runs: expected its run .*runs/vial"):
        submission(runs, objects, tmp_path / "a.tar.gz")
    (runs / "vial.ckpt").symlink_to(run / "checkpoints/best.ckpt")
    submission(runs, objects, tmp_path / "a.tar.gz")
    assert len(members(tmp_path / "a.tar.gz")) == 2 * 2 * len(PRIVATE)


def test_wrong_outputs_and_models_are_refused(run: Path, objects: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.tar\.gz"):
        submission(run, objects, tmp_path / "a.zip")
    other = tmp_path / "walnuts"
    other.symlink_to(objects / "vial")
    with pytest.raises(UserError, match=r"the model for walnuts was trained on rice, vial"):
        submission(run, other, tmp_path / "a.tar.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["walnuts"]  # nothing half-written is left


def test_values_too_large_for_float16_are_refused() -> None:
    heat = np.zeros((2, 3), np.float32)
    assert np.array_equal(to_float16(heat + np.float32(65504), Path("x.png")), np.full((2, 3), 65504, np.float16))
    heat[1, 1] = 7e4
    with pytest.raises(UserError, match=r"^the map of x\.png reaches 70000, .* 65504"):
        to_float16(heat, Path("x.png"))
