"""The comparison detects a wrong exported file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_ad import Detector
from lit_ad.deploy.differences import list_excesses, measure_differences
from lit_ad.deploy.export import export
from lit_ad.errors import NotFiniteError
from lit_ad.methods.network import make_inference_network
from tests.deploy.test_export import made, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def test_a_file_of_another_network_is_detected(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method = made("STFPM", small_models)
    checkpoint = Detector(make_inference_network(method), method.card)
    with torch.no_grad():
        changed = made("STFPM", small_models)
        next(changed.student.parameters())[0].mul_(1.1)  # type: ignore[union-attr]
    export(changed, tmp_path / "model.onnx")
    found = measure_differences(Detector.load(tmp_path / "model.onnx"), checkpoint, pictures(5))
    assert list_excesses(found, 1e-4)
    assert list_excesses({"batch 1": {"score": float("nan")}}, 1e-4)


def test_an_exported_file_with_infinite_maps_is_detected(
    small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    method = made("STFPM", small_models)
    checkpoint = Detector(make_inference_network(method), method.card)

    def broken(pixels: Any) -> Any:
        maps, *others = checkpoint.network(pixels)
        return maps * np.float32(np.inf), *others

    with pytest.raises(
        NotFiniteError, match=r"^the exported file at batch 1: image 1: its score or anomaly map is NaN"
    ):
        measure_differences(Detector(broken, checkpoint.card), checkpoint, pictures(2))
