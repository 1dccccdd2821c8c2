"""Fixtures: a data set, and the journal of a line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.splits import Splits
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.detector.detection import Detection
from lit_ad.line.shipping import register
from tests.deploy.test_journal import DECISION, detector

SHADES = {"train": [10] * 6, "validation": [20] * 3, "test": [30, 99, 97, 40]}  # red; above 95 is anomalous


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    samples: dict[str, list[Sample]] = {name: [] for name in SHADES}
    for split, shades in SHADES.items():
        for number, shade in enumerate(shades):
            image = tmp_path / "base" / f"{split}-{number}.png"
            image.parent.mkdir(exist_ok=True)
            picture = Image.new("RGB", (32, 32), (shade, 0, 0))
            picture.putpixel((0, 0), (shade, 0, 100 + number))  # so that all images differ
            picture.save(image)
            label = int(split == "test" and number >= 2)
            samples[split].append(Sample(image, label, None, "tile", "dent" if label else "good", split))  # type: ignore[arg-type]
    return Splits(samples["train"], samples["validation"], samples["test"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal of 40 images of the random sample and 20 others that were kept for their scores of 120."""
    folder = tmp_path / "journal"
    for sample, count in ((1.0, 40), (0.0, 20)):
        with Journal(folder, detector(), JournalSettings(sample=sample), "line") as journal:
            for number in range(count):
                pixels = np.full((32, 32, 3), (0, 0, 0), np.uint8)
                pixels[..., 0] = 120
                pixels[0, 0, 1:] = number, count  # so that all images differ
                journal.record(
                    Detection(pixels, 120.0, np.full((32, 32), 120, np.float32), (0, 0, 32, 32), DECISION), 0.1
                )
    return folder


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A journal of two versions. The file of one lay outside its folder, old.ckpt; that of the other lies in it."""
    folder = tmp_path / "journal"
    JournalFile(folder, alone=True).close()
    (tmp_path / "old.ckpt").write_text("old")
    (folder / "detectors/7").mkdir(parents=True)
    (folder / "detectors/7/new.ckpt").write_text("new")
    assert register(folder, detector(DECISION.with_rate(0.05)).card, tmp_path / "old.ckpt") == 1
    assert register(folder, detector(DECISION.with_rate(0.1)).card, folder / "detectors/7/new.ckpt", parent=1) == 2
    return folder


def label(folder: Path, names: dict[int, str]) -> None:
    labels = Labels(folder, 0.05)
    for image, name in names.items():
        labels.add(image, name, "dent" if name == "defect" else "")
    labels.close()
