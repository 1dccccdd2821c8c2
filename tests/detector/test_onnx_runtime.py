"""ONNX Runtime: its devices, and files that are none of ours."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_ad import Detector
from lit_ad.detector.onnx_runtime import onnx_providers
from lit_ad.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("built", [True, False])
def test_what_onnx_runtime_calls_a_device(built: bool) -> None:
    """Of a build with CUDA, which need not be here, only the list of providers is asked."""
    providers = ["CUDAExecutionProvider"] * built + ["CPUExecutionProvider"]
    build = SimpleNamespace(get_available_providers=lambda: providers)
    assert onnx_providers(build, "cpu") == ["CPUExecutionProvider"]
    for device, number in (("cuda", 0), ("cuda:2", 2)):
        if built:
            cuda = ("CUDAExecutionProvider", {"device_id": number})
            assert onnx_providers(build, device) == [cuda, "CPUExecutionProvider"]
        else:
            with pytest.raises(UserError, match=r"pip install onnxruntime-gpu"):
                onnx_providers(build, device)
    for device in ("warp", "cuda:x", "warp:1"):
        with pytest.raises(UserError, match=device):
            onnx_providers(build, device)


def test_another_ones_onnx(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"was not exported by lit_ad.*no digest"):
        Detector.load(tmp_path / "x.onnx")
