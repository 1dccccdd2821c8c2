"""A wrong exported file is not taken for a right one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_ad import Detector
from lit_ad.deploy.differences import beyond, differences
from lit_ad.deploy.export import export
from lit_ad.errors import NotFiniteError
from lit_ad.methods.network import make_inference_network
from tests.deploy.test_export import made, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def test_a_wrong_file_is_found_out(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method = made("STFPM", small_models)
    checkpoint = Detector(make_inference_network(method), method.card)
    with torch.no_grad():
        changed = made("STFPM", small_models)
        next(changed.student.parameters())[0].mul_(1.1)  # type: ignore[union-attr]
    export(changed, tmp_path / "model.onnx")
    found = differences(Detector.load(tmp_path / "model.onnx"), checkpoint, pictures(5))
    assert beyond(found, 1e-4)
    assert beyond({"batch 1": {"score": float("nan")}}, 1e-4)


def test_an_exported_file_that_is_not_finite_is_found_out(
    small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Also in int8, where no tolerance says so."""
    method = made("STFPM", small_models)
    checkpoint = Detector(make_inference_network(method), method.card)

    def broken(pixels: Any) -> Any:
        maps, *others = checkpoint.network(pixels)
        return maps * np.float32(np.inf), *others

    with pytest.raises(
        NotFiniteError, match=r"^the exported file at batch 1: image 1: its score or anomaly map is NaN"
    ):
        differences(Detector(broken, checkpoint.card), checkpoint, pictures(2))
