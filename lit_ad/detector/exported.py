"""Load an exported file with the runtime that its suffix names."""

from pathlib import Path

from lit_ad.detector.onnx_runtime import load_onnx
from lit_ad.detector.openvino_runtime import load_openvino
from lit_ad.detector.runtimes import Loaded
from lit_ad.detector.torch_export import load_torch


def load_exported(file: Path, device: str = "cpu") -> Loaded:
    """Compare an exported file with its checksum, and load its network and card.

    The checksum takes 0.6 s for each GiB, and 0.3 s for each GiB of a .pt2.

    Args:
        file: .onnx, .xml or .pt2.
        device: cpu; cuda or cuda:1 for .onnx and .pt2; tensorrt or tensorrt:1 for .onnx; for .xml a name of OpenVINO's,
            such as GPU, NPU or AUTO.

    Raises:
        UserError: lit_ad did not write the file, it is damaged, its runtime is missing, or there is no such device.
    """
    load = {".onnx": load_onnx, ".xml": load_openvino, ".pt2": load_torch}[file.suffix]
    return load(file, device.lower())
