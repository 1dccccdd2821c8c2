"""ONNX Runtime on NVIDIA's GPUs: its CUDA and TensorRT providers, and images and results that stay in GPU buffers.

No GPU was at hand when this was written: see docs/deploy.md for what has run where.
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
from lit_ad.detector.runtimes import one_at_a_time
from lit_ad.detector.scoring import Network
from lit_ad.image.view import Floats
from lit_ad.machine import no_device

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"  # what ONNX Runtime calls them
KINDS = {"cuda": CUDA, "tensorrt": TENSORRT}
INSTALL = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu tensorrt"}
LARGEST_BATCH = 16  # that TensorRT builds an engine for; of larger ones, it is given parts


def gpu_of(runtime: Any, device: str) -> tuple[str, int]:
    """What a device such as cuda:1 or tensorrt names: its kind, and the number of the GPU.

    Raises:
        UserError: It is no such device, or this build of ONNX Runtime has no provider for it.
    """
    kind, _, number = device.partition(":")
    built = runtime.get_available_providers()
    if KINDS.get(kind) not in built or not (number.isdecimal() or device == kind):
        there = ["cpu", *(name for name, provider in KINDS.items() if provider in built)]
        more = f"; for {kind}, pip install {INSTALL[kind]}" if kind in KINDS and KINDS[kind] not in built else ""
        raise no_device(device, "ONNX Runtime", there, more)
    return kind, int(number or 0)


def gpu_providers(runtime: Any, kind: str, number: int, card: Card, engines: Path | None) -> list[Any]:
    """ONNX Runtime's providers for a GPU, with their options: what one cannot compute, the next one does.

    Args:
        runtime: The package onnxruntime.
        kind: From `gpu_of`.
        number: Of the GPU, from there too.
        card: Of the file: its precision, and the size of its inputs.
        engines: Where TensorRT keeps the engines that it builds, from `engine_folder`. None: nowhere.
    """
    options: dict[str, Any] = {"device_id": number}
    if card.precision == "fp32" and _version_of(runtime) >= (1, 18):
        options["use_tf32"] = 0  # which has 10 bits: maps would be a per cent off
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


def engine_folder(file: Path, fingerprint: str) -> Path | None:
    """FILE.tensorrt/FINGERPRINT beside the file, which is made. None, with a warning, where it cannot be written.

    Engines take minutes to build. TensorRT would take one of other weights for its own, hence the fingerprint.
    """
    folder = file.with_name(f"{file.name}.tensorrt") / fingerprint[:16]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    warnings.warn(
        f"{folder} cannot be written: TensorRT builds an engine for minutes each time {file.name} is loaded",
        stacklevel=2,
    )
    return None


def _version_of(runtime: Any) -> tuple[int, int]:
    """The first two numbers of its version."""
    major, minor, *_ = runtime.__version__.split(".")
    return int(major), int(minor)


def tensorrt_version() -> str:
    """Of its package from pip, where there is one: with another one, a file is compared with its checkpoint again."""
    for package in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "of the system"


def bound_network(runtime: Any, session: Any, place: str, number: int, largest: int | None = None) -> Network:
    """A session whose input and outputs are buffers on a device (IO binding), for one caller at a time.

    Args:
        runtime: The package onnxruntime.
        session: Of the file.
        place: Where the buffers are: cuda, or cpu.
        number: Of the device.
        largest: The largest batch that it is given at once. None: any.
    """
    names = [output.name for output in session.get_outputs()]
    inputs: dict[tuple[int, ...], Any] = {}  # the buffer of the last shape

    def run_part(pixels: NDArray[np.uint8]) -> list[Floats]:
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape in inputs:
            inputs[pixels.shape].update_inplace(pixels)
        else:
            inputs.clear()
            # A copy: a buffer on the CPU is the array itself, and the next images would be written into it.
            inputs[pixels.shape] = runtime.OrtValue.ortvalue_from_numpy(pixels.copy(), place, number)
        binding = session.io_binding()
        binding.bind_ortvalue_input("pixels", inputs[pixels.shape])
        for name in names:
            binding.bind_output(name, place, number)
        session.run_with_iobinding(binding)
        outputs: list[Floats] = binding.copy_outputs_to_cpu()
        return outputs

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        step = largest or len(pixels)
        parts = [run_part(pixels[first : first + step]) for first in range(0, len(pixels), step)]
        score, *maps = [np.concatenate(values) if len(values) > 1 else values[0] for values in zip(*parts, strict=True)]
        return (maps[0] if maps else None), score

    return one_at_a_time(run)
