"""Confirmed images join a data set, each on one side for good; old and new are compared on what is neither's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.source import check
from lit_ad.data.sources.table import Table
from lit_ad.data.splits import Splits, list_splits
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.detector.detection import Detection
from lit_ad.errors import UserError
from lit_ad.line.growth import (
    DEFECTS,
    OLD_DEFECTS,
    OLD_GOOD,
    SAMPLED,
    SELECTED,
    Comparison,
    compare,
    gather,
    image_auroc,
    in_rows,
    reasons_against,
    write_samples,
)
from tests.deploy.test_journal import DECISION, detector

SHADES = {"train": [10] * 6, "validation": [20] * 3, "test": [30, 99, 97, 40]}  # red; above 95 is anomalous


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    samples: dict[str, list[Sample]] = {name: [] for name in SHADES}
    for split, shades in SHADES.items():
        for number, shade in enumerate(shades):
            image = tmp_path / "base" / f"{split}-{number}.png"
            image.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (shade, 0, 0)).save(image)
            label = int(split == "test" and number >= 2)
            samples[split].append(Sample(image, label, None, "tile", "dent" if label else "good", split))  # type: ignore[arg-type]
    return Splits(samples["train"], samples["validation"], samples["test"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images of the random sample, and 20 that were kept for their scores; each red of its score."""
    folder = tmp_path / "journal"
    for sample, count in ((1.0, 40), (0.0, 20)):
        with Journal(folder, detector(), JournalSettings(sample=sample), "line") as journal:
            for number in range(count):
                pixels = np.full((32, 32, 3), (0, 0, 0), np.uint8)
                pixels[..., 0] = 120
                pixels[0, 0, 1] = number  # no image twice
                journal.record(
                    Detection(pixels, 120.0, np.full((32, 32), 120, np.float32), (0, 0, 32, 32), DECISION), 0.1
                )
    return folder


def label(folder: Path, names: dict[int, str]) -> None:
    labels = Labels(folder, 0.05)
    for image, name in names.items():
        labels.add(image, name, "dent" if name == "defect" else "")
    labels.close()


def sides(samples: list[Sample]) -> dict[str, str]:
    return {sample.image.name: sample.split for sample in samples if sample.image.parent.name == "pictures"}


def test_images_join_on_one_side_for_good(splits: Splits, folder: Path, tmp_path: Path) -> None:
    label(folder, {**dict.fromkeys(range(1, 21), "good"), 60: "defect", 59: "unsure"})
    growth = gather(splits, folder)
    first = sides(growth.samples)
    assert set(first.values()) == {"train", "validation", "test"} and len(first) == 21
    assert sum(growth.joined.values()) == 21
    write_samples(growth.samples, tmp_path / "images.csv")
    again = list_splits(Table(tmp_path, "images.csv"))
    check([*again.train, *again.val, *again.test])
    assert [sample.image for sample in again.val[:3]] == [sample.image for sample in splits.val]
    assert {sample.category for sample in again.train} == {"tile"}
    label(folder, dict.fromkeys(range(21, 59), "good"))
    second = gather(again, folder)
    assert first.items() <= sides(second.samples).items()
    assert sum(second.joined.values()) == 38
    assert all(side != "validation" for name, side in sides(second.samples).items() if int(name[:9]) > 40)
    trained = {sample.image for sample in second.samples if sample.split != "test"}
    assert not trained & {sample.image for samples in second.groups.values() for sample in samples}
    assert {name: len(samples) for name, samples in second.groups.items()}.keys() == {
        *(OLD_GOOD, OLD_DEFECTS, SAMPLED, SELECTED, DEFECTS)
    }


def test_new_images_alone_decide(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    held = [sample for sample in gather(splits, folder, only_new_decide=True).samples if sample.split == "validation"]
    assert held and all(sample.image.parent.name == "pictures" for sample in held)


def test_what_is_a_defect_after_all_trains_no_more(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather(splits, folder)
    name = next(name for name, side in sides(growth.samples).items() if side == "train")
    one = folder / "pictures" / name
    by_split: dict[str, list[Sample]] = {name: [s for s in growth.samples if s.split == name] for name in SHADES}
    grown = Splits(by_split["train"], by_split["validation"], by_split["test"])
    label(folder, {int(one.stem): "defect"})
    after = gather(grown, folder)
    assert one not in {sample.image for sample in after.samples}
    assert DEFECTS not in after.groups or not after.groups[DEFECTS]
    assert "Of the images that trained, 1 are defects now" in capsys.readouterr().out


def test_without_good_images(splits: Splits, folder: Path) -> None:
    label(folder, {1: "defect"})
    with pytest.raises(UserError, match="is labelled good: label some on the service's page"):
        gather(splits, folder)
    label(folder, {60: "good"})
    with pytest.raises(UserError, match="label more of its random sample good"):
        gather(splits, folder, only_new_decide=True)


def test_detectors_are_compared(splits: Splits, folder: Path) -> None:
    label(folder, {**dict.fromkeys(range(1, 41), "good"), 60: "defect"})
    growth = gather(splits, folder, only_new_decide=True)  # whose scores are 120, and so is the threshold by them
    old, new = detector(), detector(DECISION.with_threshold(130.0))
    comparisons, aurocs = compare(old, new, growth)
    counts = {each.group: (each.images, each.old, each.anew, each.new) for each in comparisons}
    assert counts[OLD_GOOD] == (2, 1, 0, 0) and counts[OLD_DEFECTS] == (2, 1, 2, 2)
    sampled = len(growth.groups[SAMPLED])
    assert counts[DEFECTS] == (1, 0, 1, 1) and counts[SAMPLED] == (sampled, sampled, 0, 0)
    assert aurocs == {"old": 0.5, "new": 0.5}  # 97 and 40 against 30 and 99
    assert reasons_against(comparisons) == [
        "more misses (1 of 1 confirmed defects; the old one 0, and 1 with thresholds made anew)"
    ]
    assert in_rows(comparisons)[0][:2] == [OLD_GOOD, "2"]
    with pytest.raises(UserError, match="without a threshold cannot be compared"):
        compare(old, detector(None), growth)


def test_what_is_worse_than_the_old_one() -> None:
    assert reasons_against([Comparison(DEFECTS, 9, 2, 4, 5), Comparison(SAMPLED, 9, 3, 1, 3)]) == [
        "more misses (5 of 9 confirmed defects; the old one 2, and 4 with thresholds made anew)"
    ]
    assert len(reasons_against([Comparison(DEFECTS, 9, 2, 6, 5)])) == 1  # also where the old one would be no better
    assert not reasons_against([Comparison(DEFECTS, 9, 5, 4, 5), Comparison(OLD_GOOD, 5, 0, 0, 3)])  # of the old test


@pytest.mark.parametrize(
    ("nominal", "anomalous", "expected"), [([1, 2], [3, 4], 1.0), ([1, 3], [2, 3], 0.625), ([2], [1], 0.0)]
)
def test_auroc_by_pairs(nominal: list[float], anomalous: list[float], expected: float) -> None:
    assert image_auroc(nominal, anomalous) == expected


def test_wilsons_interval() -> None:
    low, high = Comparison(DEFECTS, 20, 0, 0, 1).interval()
    z, p, n = 1.959964, 1 / 20, 20
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert (low, high) == pytest.approx([(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)], rel=1e-5)
