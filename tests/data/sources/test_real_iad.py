"""Real-IAD's layout: OK/S0001/CAT_0001_OK_C1_TIME.jpg, NG/CODE/S0001/CAT__0001_NG_CODE_C1_TIME.jpg, and a JSON file of
splits."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import RealIAD
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.loading import Loading
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap

NAMES = ("audiojack", "toy_brick")
VIEWS = range(1, 6)


@pytest.fixture
def real_iad(tmp_path: Path, write: Write) -> Path:
    """Write two categories. Each has four parts to train on, one good test part, and one test part with a defect in two
    of its five views."""
    root = tmp_path / "Real-IAD"
    for name in NAMES:
        rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        for part in range(1, 6):
            for view in VIEWS:
                path = f"OK/S{part:04}/{name}_{part:04}_OK_C{view}_2023102113052{view}.jpg"
                write(f"Real-IAD/realiad_256/{name}/{path}")
                row = {"category": name, "anomaly_class": "OK", "image_path": path, "mask_path": None}
                rows["train" if part < 5 else "test"].append(row)
        for view in VIEWS:
            path = f"NG/BX/S0001/{name}__0001_NG_BX_C{view}_20231028110000.jpg"
            write(f"Real-IAD/realiad_256/{name}/{path}")
            seen = view in (2, 4)
            mask = path.replace(".jpg", ".png") if seen else None
            if mask is not None:
                values = np.zeros((20, 24), np.uint8)
                values[1, :4], values[2, :6] = 127, 128  # resizing has smeared these edges
                Image.fromarray(values).save(root / "realiad_256" / name / mask)
            code = "BX" if seen else "OK"
            rows["test"].append({"category": name, "anomaly_class": code, "image_path": path, "mask_path": mask})
        split = root / "realiad_jsons" / "realiad_jsons" / f"{name}.json"
        split.parent.mkdir(parents=True, exist_ok=True)
        split.write_text(json.dumps({"meta": {"normal_class": "OK", "prefix": f"{name}/"}, **rows}))
    return root


def test_each_view_has_its_label_and_its_part_as_item(real_iad: Path) -> None:
    samples = RealIAD(real_iad, images="realiad_256").samples()
    check_samples(samples)
    assert Counter((s.category, s.split, s.label, s.defect) for s in samples) == {
        (name, *kind): count
        for name in NAMES
        for kind, count in {("train", 0, "good"): 20, ("test", 0, "good"): 5 + 3, ("test", 1, "BX"): 2}.items()
    }
    of_toys = [s for s in samples if s.category == "toy_brick" and s.split == "test"]
    assert Counter(s.item for s in of_toys) == {"toy_brick_0005_OK": 5, "toy_brick__0001_NG_BX": 5}
    assert [s.split for s in samples] == ["train"] * 40 + ["test"] * 20


def test_mask_values_above_127_mark_a_defect(real_iad: Path) -> None:
    data = AnomalyDataModule(RealIAD(real_iad, "audiojack", "realiad_256"), View(16), loading=Loading(num_workers=0))
    masks = [unwrap(read_truth(sample, (20, 24))) for sample in data.splits.test]
    assert [int(mask.sum()) for mask in masks] == [0] * 5 + [0, 6, 0, 6, 0]
    assert unwrap(data.splits.test[6].mask).suffix == ".png"


def test_views_of_a_part_are_held_out_together(real_iad: Path) -> None:
    data = AnomalyDataModule(RealIAD(real_iad, images="realiad_256"), View(16), loading=Loading(num_workers=0))
    for name in NAMES:
        held = Counter(s.item for s in data.splits.val if s.category == name)
        assert list(held.values()) == [5] and not held.keys() & {s.item for s in data.splits.train}


def test_one_category_and_other_splits_can_be_chosen(real_iad: Path) -> None:
    source = RealIAD(real_iad, ["toy_brick"], "realiad_256")
    assert {s.category for s in source.samples()} == {"toy_brick"}
    assert source.tasks() == {"toy_brick": {"category": "toy_brick"}}
    single = real_iad / "realiad_jsons" / "realiad_jsons_sv"
    single.mkdir()
    values = json.loads((real_iad / "realiad_jsons/realiad_jsons/audiojack.json").read_text())
    for side in ("train", "test"):
        values[side] = [row for row in values[side] if "_C1_" in row["image_path"]]
    (single / "audiojack.json").write_text(json.dumps(values))
    samples = RealIAD(real_iad, images="realiad_256", splits="realiad_jsons/realiad_jsons_sv").samples()
    assert Counter(s.split for s in samples) == {"train": 4, "test": 2}


def changed(real_iad: Path, split: str, number: int, **values: Any) -> RealIAD:
    path = real_iad / "realiad_jsons/realiad_jsons/audiojack.json"
    whole = json.loads(path.read_text())
    whole[split][number] |= values
    path.write_text(json.dumps(whole))
    return RealIAD(real_iad, "audiojack", "realiad_256")


@pytest.mark.parametrize(
    ("split", "number", "values", "message"),
    [
        (
            "train",
            3,
            {"anomaly_class": "BX"},
            r"audiojack.json, train\[3\] is anomalous \(BX\): .* not the noisy splits",
        ),
        ("test", 1, {"image_path": "OK/S9/x_C1_1.jpg"}, r"audiojack.json, test\[1\]: there is no file .*S9/x_C1_1.jpg"),
        ("test", 6, {"mask_path": "NG/none.png"}, r"audiojack.json, test\[6\]: there is no file .*NG/none.png"),
        ("test", 0, {"image_path": "OK/S9/x.jpg"}, r"test\[0\]: the name x.jpg has no view, _C1 to _C5"),
        ("test", 0, {"image_path": None}, r"test\[0\] is .*: expected category, anomaly_class"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(
    real_iad: Path, split: str, number: int, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        changed(real_iad, split, number, **values).samples()


def test_missing_folders_and_wrong_split_files_are_refused(real_iad: Path) -> None:
    with pytest.raises(UserError, match=r"realiad_1024 is not a folder: set `images` .*; there are realiad_256"):
        RealIAD(real_iad).samples()
    with pytest.raises(UserError, match=r"no CATEGORY.json in .*nowhere: set `splits`"):
        RealIAD(real_iad, images="realiad_256", splits="nowhere").samples()
    (real_iad / "realiad_jsons/realiad_jsons/audiojack.json").write_text('{"train": []}')
    with pytest.raises(UserError, match=r"audiojack.json is no split of Real-IAD: KeyError 'meta'"):
        RealIAD(real_iad, images="realiad_256").samples()


def test_a_part_in_training_and_test_is_refused(real_iad: Path) -> None:
    path = real_iad / "realiad_jsons/realiad_jsons/audiojack.json"
    whole = json.loads(path.read_text())
    whole["test"].append(whole["train"].pop())
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"item 'audiojack_0004_OK' in train and in test: .*C1.*C5"):
        check_samples(RealIAD(real_iad, images="realiad_256").samples())
