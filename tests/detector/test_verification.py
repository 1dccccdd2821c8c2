"""A file is compared once for each file, runtime, device and machine: a small difference warns, a large one fails."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad import Detector
from lit_ad.deploy.export import SUFFIX
from lit_ad.detector import detector as module
from lit_ad.detector import verification
from lit_ad.detector.card import Card
from lit_ad.detector.exported import load_exported
from lit_ad.detector.runtimes import Loaded
from lit_ad.detector.self_check import SelfCheck
from lit_ad.detector.verification import verify
from lit_ad.errors import UserError
from lit_ad.image.view import View

FILE = Path("model.onnx")


class Counting:
    """A network whose score is the mean of the pixels, times a factor; it counts its runs."""

    def __init__(self) -> None:
        self.factor, self.runs = 1.0, 0

    def __call__(self, pixels: Any) -> tuple[None, Any]:
        self.runs += 1
        return None, np.float32(self.factor) * pixels.mean(axis=(1, 2, 3), dtype=np.float32)

    def loaded(self, runtime: str = "Runtime 1", fingerprint: str = "abc") -> Loaded:
        images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
        scores = tuple(float(image.mean()) for image in images)
        text = SelfCheck(images, (8, 8), scores, None, 1, 1e-3).to_text()
        card = Card("x", View(8), None, map_scored=False)
        return Loaded(self, card, lambda callers: self, runtime, text, fingerprint)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Counting()


def test_a_file_is_compared_once_for_each_runtime_and_device(network: Counting) -> None:
    for expected in (3, 3):
        verify(network.loaded(), FILE, "cpu")
        assert network.runs == expected
    for number, changes in enumerate(({"fingerprint": "other"}, {"runtime": "Runtime 2"}), 2):
        verify(network.loaded(**changes), FILE, "cpu")
        assert network.runs == 3 * number
    verify(network.loaded(), FILE, "cuda")
    assert network.runs == 12


def test_a_warning_is_repeated_and_a_failure_is_not_kept(network: Counting) -> None:
    network.factor = 1.003
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"Runtime 1 is not as near to the checkpoint of model\.onnx as it should"):
            verify(network.loaded(), FILE, "cpu")
    assert network.runs == 3
    network.factor = 1.1
    for runs in (6, 9):
        message = (
            r"Runtime 1 computes other numbers for model\.onnx than its checkpoint: the score of image \d is 1.*, "
        )
        message += r"and the checkpoint gave 1.* verify=False of Detector\.load, or --verify false"
        with pytest.raises(UserError, match=message):
            verify(network.loaded(fingerprint="b"), FILE, "cpu")
        assert network.runs == runs
    network.factor = 1.0
    verify(network.loaded(fingerprint="b"), FILE, "cpu")


def test_without_a_place_for_results_it_compares_each_time(
    network: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no warning: a container with a read-only file system is not at fault."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for runs in (3, 6):
            verify(network.loaded(), FILE, "cpu")
            assert network.runs == runs


def test_a_damaged_result_is_computed_again(network: Counting, tmp_path: Path) -> None:
    verify(network.loaded(), FILE, "cpu")
    (kept,) = (tmp_path / "cache/lit_ad/verified").iterdir()
    kept.write_text("[")
    verify(network.loaded(), FILE, "cpu")
    assert network.runs == 6


def test_a_file_without_a_check_is_accepted(network: Counting) -> None:
    verify(network.loaded()._replace(check=None), FILE, "cpu")
    assert network.runs == 0


@pytest.mark.parametrize("format", SUFFIX)
def test_a_runtime_that_computes_other_numbers_is_refused(
    format: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, network: Counting, tmp_path: Path
) -> None:
    """The network is the file's, but its numbers differ, as with a faulty driver."""
    assert load_exported(files[format]).check is not None

    def wrong(file: Path, device: str) -> Loaded:
        loaded = load_exported(file, device)

        def off(pixels: Any) -> Any:
            maps, scores = loaded.network(pixels)
            return 1.5 * maps, scores

        return loaded._replace(network=off)

    monkeypatch.setattr(module, "load_exported", wrong)
    with pytest.raises(UserError, match=r"computes other numbers for .*model\.\w+ than .* and the checkpoint gave"):
        Detector.load(files[format])
    Detector.load(files[format], verify=False)
    monkeypatch.undo()
    monkeypatch.setattr(verification, "cache_directory", lambda: tmp_path)
    Detector.load(files[format])
