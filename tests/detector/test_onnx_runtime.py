"""ONNX Runtime: missing devices and files of other programs are errors in one line."""

from pathlib import Path

import pytest

from lit_ad import Detector
from lit_ad.detector.onnx_runtime import make_gpu_session, read_metadata
from lit_ad.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("device", "packages"), [("cuda", "onnxruntime-gpu"), ("tensorrt", "onnxruntime-gpu tensorrt")]
)
def test_a_missing_gpu_is_refused(device: str, packages: str, files: dict[str, Path]) -> None:
    """The error is one line, and no folder is left beside the file."""
    if f"{device}executionprovider" in {name.lower() for name in onnxruntime.get_available_providers()}:
        pytest.skip("this ONNX Runtime has the provider: test_gpu.py is for it")
    for name in (device, f"{device}:1"):
        message = rf"there is no device '{name}' .*, only cpu; for {device}, pip install {packages}$"
        with pytest.raises(UserError, match=message):
            Detector.load(files["onnx"], device=name)
    assert not files["onnx"].with_name("model.onnx.tensorrt").exists()


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("fails", ["silently", "with an error"])
def test_a_gpu_without_its_libraries(fails: str, files: dict[str, Path], tmp_path: Path) -> None:
    """As the build for GPUs does where there is no CUDA (seen with onnxruntime-gpu 1.31): it takes the CPU, or raises
    of TensorRT. Here the build for CPUs plays its part."""
    engines = tmp_path / "model.onnx.tensorrt/abc"
    engines.mkdir(parents=True)
    provider = "CUDAExecutionProvider" if fails == "silently" else "NoSuchProvider"
    message = r"only cpu; there is no GPU, no driver, or tensorrt is missing: pip install onnxruntime-gpu tensorrt"
    with pytest.raises(UserError, match=message):
        make_gpu_session(onnxruntime, files["onnx"], "tensorrt", [(provider, {}), "CPUExecutionProvider"], engines)
    assert not engines.parent.exists()


def test_metadata_are_read_without_running(files: dict[str, Path]) -> None:
    metadata = read_metadata(onnxruntime, files["onnx"])
    assert set(metadata) == {"lit_ad", "lit_ad_check"}


def test_an_onnx_file_of_another_program_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"was not exported by lit_ad.*no digest"):
        Detector.load(tmp_path / "x.onnx")
