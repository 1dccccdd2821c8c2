"""Exported files, each by the runtime that its suffix names."""

from pathlib import Path

from lit_ad.detector.onnx_runtime import load_onnx
from lit_ad.detector.openvino_runtime import load_openvino
from lit_ad.detector.runtimes import Loaded
from lit_ad.detector.torch_export import load_torch


def load_exported(file: Path, device: str = "cpu") -> Loaded:
    """Return the network of an exported file, its card, and the network for several callers.

    Args:
        file: .onnx, .xml or .pt2.
        device: cpu; cuda or cuda:1 for .onnx and .pt2; tensorrt or tensorrt:1 for .onnx; what OpenVINO calls it for
            .xml, such as GPU, NPU or AUTO.

    All bytes are compared with the file's checksum first: 0.6 s for each GiB, 0.3 s of a .pt2.

    Raises:
        UserError: It is not one of ours, it is damaged, its runtime is missing, or there is no such device.
    """
    load = {".onnx": load_onnx, ".xml": load_openvino, ".pt2": load_torch}[file.suffix]
    return load(file, device.lower())
