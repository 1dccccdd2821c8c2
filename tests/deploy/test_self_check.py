"""The self-check of a file has the results of its checkpoint, also with tiles and with large inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.deploy.export import export
from lit_ad.deploy.self_check import LARGEST, loosen, make_check, shrink
from lit_ad.detector.card import Card
from lit_ad.detector.exported import load_exported
from lit_ad.detector.self_check import SelfCheck, compare
from lit_ad.image.view import View
from lit_ad.methods.network import make_inference_network
from tests.deploy.test_export import made, pictures


@pytest.mark.parametrize("view", [View(64, fit="pad"), View(96, tile=64, overlap=16)], ids=["padded", "tiles"])
def test_the_check_agrees_with_its_checkpoint_only(view: View, small_models: dict[str, dict[str, Any]]) -> None:
    method = made("STFPM", small_models, view=view)
    check = make_check(make_inference_network(method), method.card, pictures(3), 1e-3)
    again = SelfCheck.from_text(check.to_text(), Path("x.onnx"))
    assert again.pixels.shape == (3, 3, 64, 64) and len(again.scores) == 3
    assert compare(make_inference_network(method), method.card, again).largest < 2e-5
    other = made("STFPM", small_models, view=view)
    next(other.student.parameters())[0].mul_(1.1)  # type: ignore[union-attr]
    assert not compare(make_inference_network(other), method.card, again).agrees


def test_large_inputs_are_carried_smaller() -> None:
    def network(pixels: Any) -> tuple[Any, Any]:
        return pixels[:, :1].astype(np.float32), None

    card = Card("x", View(1024), None)
    check = make_check(network, card, [np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)], 1e-3)
    assert check.images.shape == (1, 3, LARGEST, LARGEST) and check.pixels.shape == (1, 3, 1024, 1024)
    assert check.maps is not None and check.maps.shape == (1, 128, 128)
    assert compare(network, card, check).agrees
    assert shrink(np.zeros((3, 100, 1000), np.uint8)).shape == (3, 38, LARGEST)


def test_int8_tolerates_twice_its_measured_difference(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    pytest.importorskip("onnxruntime")
    method, file = made("STFPM", small_models), tmp_path / "model.onnx"
    export(method, file, "onnx", "int8", pictures(4), carried=pictures(3))
    loosen(file)
    loaded = load_exported(file)
    assert loaded.check is not None
    check = SelfCheck.from_text(loaded.check, file)
    comparison = compare(loaded.network, loaded.card, check)
    assert check.tolerance == pytest.approx(max(0.02, 2 * comparison.largest)) and comparison.agrees
    plain = tmp_path / "plain.onnx"
    export(method, plain)
    before = plain.read_bytes()
    loosen(plain)
    assert plain.read_bytes() == before
