"""Run ONNX files on NVIDIA GPUs, by the CUDA and TensorRT providers of ONNX Runtime, with buffers on the GPU.

docs/deploy.md says which of this has run on which GPU.
"""

import os
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card
from lit_ad.detector.runtimes import lock_network
from lit_ad.detector.scoring import Network
from lit_ad.image.view import Floats
from lit_ad.machine import missing_device

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"  # the providers' names in ONNX Runtime
KINDS = {"cuda": CUDA, "tensorrt": TENSORRT}
INSTALL = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu tensorrt"}
LARGEST_BATCH = 16  # of a TensorRT engine; larger batches are run in parts


def parse_gpu(runtime: Any, device: str) -> tuple[str, int]:
    """Return the kind and the number of a GPU from the name of a device: cuda:1 gives cuda and 1, tensorrt gives 0.

    Raises:
        UserError: No GPU has this form of name, or this build of ONNX Runtime has no provider for it.
    """
    kind, _, number = device.partition(":")
    providers = runtime.get_available_providers()
    if KINDS.get(kind) not in providers or not (number.isdecimal() or device == kind):
        available = ["cpu", *(name for name, provider in KINDS.items() if provider in providers)]
        more = f"; for {kind}, pip install {INSTALL[kind]}" if kind in KINDS and KINDS[kind] not in providers else ""
        raise missing_device(device, "ONNX Runtime", available, more)
    return kind, int(number or 0)


def list_gpu_providers(runtime: Any, kind: str, number: int, card: Card, engines: Path | None) -> list[Any]:
    """Return ONNX Runtime's providers for a GPU, with their options, in the order in which it tries them.

    Args:
        runtime: The package onnxruntime.
        kind: cuda or tensorrt, from `parse_gpu`.
        number: The number of the GPU, from `parse_gpu`.
        card: The file's card, for its precision and the size of its inputs.
        engines: The folder in which TensorRT keeps its engines, from `make_engine_folder`. None: it does not keep them.
    """
    options: dict[str, Any] = {"device_id": number}
    if card.precision == "fp32" and _parse_version(runtime) >= (1, 18):
        options["use_tf32"] = 0  # TF32 has a mantissa of 10 bits: maps would differ by a per cent
    providers = [(CUDA, options), "CPUExecutionProvider"]
    if kind == "cuda":
        return providers
    _, _, height, width = card.view.black_input().shape
    tensorrt: dict[str, Any] = {
        "device_id": number,
        "trt_fp16_enable": card.precision == "fp16",
        "trt_int8_enable": card.precision == "int8",
        "trt_profile_min_shapes": f"pixels:1x3x{height}x{width}",
        "trt_profile_opt_shapes": f"pixels:1x3x{height}x{width}",
        "trt_profile_max_shapes": f"pixels:{LARGEST_BATCH}x3x{height}x{width}",
    }
    if engines is not None:
        tensorrt |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
        tensorrt |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(engines)}
    return [(TENSORRT, tensorrt), *providers]


def make_engine_folder(file: Path, fingerprint: str) -> Path | None:
    """Create the folder FILE.tensorrt/FINGERPRINT beside the file, and return it. None, with a warning, if it cannot be
    written.

    An engine is the network as TensorRT compiles it, which takes minutes, so engines are kept. TensorRT does not notice
    that an engine has other weights, so the folder's name has the fingerprint of the file.
    """
    folder = file.with_name(f"{file.name}.tensorrt") / fingerprint[:16]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    warnings.warn(
        f"{folder} cannot be written: TensorRT builds an engine, which takes minutes, each time {file.name} is loaded",
        stacklevel=2,
    )
    return None


def _parse_version(runtime: Any) -> tuple[int, int]:
    """Return the first two numbers of ONNX Runtime's version."""
    major, minor, *_ = runtime.__version__.split(".")
    return int(major), int(minor)


def find_tensorrt_version() -> str:
    """Return the version of TensorRT's pip package, or "of the system" if there is none.

    It is part of a runtime's name: after an update, a file is compared with its checkpoint again.
    """
    for package in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "of the system"


def bind_network(runtime: Any, session: Any, device_kind: str, number: int, largest: int | None = None) -> Network:
    """Return a session as a network whose inputs and outputs are buffers on a device (IO binding). It runs one call at
    a time.

    Args:
        runtime: The package onnxruntime.
        session: ONNX Runtime's session for the file.
        device_kind: cuda or cpu.
        number: The number of the device.
        largest: The largest batch of one run; larger batches are split. None: no limit.
    """
    names = [output.name for output in session.get_outputs()]
    inputs: dict[tuple[int, ...], Any] = {}  # at most one: the buffer for the shape of the last batch

    def run_part(pixels: NDArray[np.uint8]) -> list[Floats]:
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape in inputs:
            inputs[pixels.shape].update_inplace(pixels)
        else:
            inputs.clear()
            # Copy: on the CPU the buffer is the caller's array itself, and the next images would overwrite it.
            inputs[pixels.shape] = runtime.OrtValue.ortvalue_from_numpy(pixels.copy(), device_kind, number)
        binding = session.io_binding()
        binding.bind_ortvalue_input("pixels", inputs[pixels.shape])
        for name in names:
            binding.bind_output(name, device_kind, number)
        session.run_with_iobinding(binding)
        outputs: list[Floats] = binding.copy_outputs_to_cpu()
        return outputs

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        step = largest or len(pixels)
        parts = [run_part(pixels[first : first + step]) for first in range(0, len(pixels), step)]
        score, *maps = [np.concatenate(values) if len(values) > 1 else values[0] for values in zip(*parts, strict=True)]
        return (maps[0] if maps else None), score

    return lock_network(run)
