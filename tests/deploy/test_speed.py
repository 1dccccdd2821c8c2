"""The speed of a detector is measured for the given time, on at least five batches of the given size."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.deploy.speed import measure, time_files, time_network
from lit_ad.detector.card import Card
from lit_ad.detector.detector import Detector
from lit_ad.detector.scoring import Output
from lit_ad.image.view import View
from tests.methods.training import Brightness, trainer_in


class Counted:
    """A network that records the shapes of its batches."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray) -> Output:
        self.shapes.append(pixels.shape)
        return Output(None, pixels.reshape(len(pixels), -1).max(axis=1).astype(np.float32))


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def detector(counted: Counted) -> Detector:
    return Detector(counted, Card("bright", View(16), None, map_scored=False))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for file in files:
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(file)
    return files


def test_the_network_alone_runs_at_least_five_times_after_warming_up(detector: Detector, counted: Counted) -> None:
    times = time_network(detector, 4, seconds=0)
    assert len(times) == 5 and all(time > 0 for time in times)
    assert counted.shapes == [(4, 3, 16, 16)] * (3 + 5)


def test_the_network_runs_until_the_time_is_used_up(detector: Detector) -> None:
    times = time_network(detector, 1, seconds=0.05)
    assert sum(times) >= 0.05 > sum(times[:-1])


@pytest.mark.parametrize("size", [1, 2])
def test_files_are_judged_in_at_least_five_batches(size: int, detector: Detector, paths: list[str]) -> None:
    times = time_files(detector, paths, size, seconds=0)
    assert len(times) == 5 and all(time > 0 for time in times)


def test_a_row_has_the_file_its_runtime_and_the_times(
    resnet_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], paths: list[str]
) -> None:
    trainer = trainer_in(tmp_path)
    trainer.strategy.connect(Brightness(str(resnet_file), View(32)))
    trainer.save_checkpoint(file := tmp_path / "best.ckpt")
    for images in ([], paths):
        with pytest.warns(UserWarning, match="this model has no threshold"):
            measure(str(file), "2", "0", json.dumps(images), "cpu", "")
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (row["file"], row["runtime"], row["precision"], row["batch"]) == ("best.ckpt", "PyTorch", "fp32", 2)
        assert float(row["p50 ms"]) <= float(row["p95 ms"]) and float(row["images/s"]) > 0
        assert float(row["file MiB"]) == pytest.approx(file.stat().st_size / 2**20, abs=0.06)
