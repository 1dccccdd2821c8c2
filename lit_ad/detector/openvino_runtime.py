"""OpenVINO, for .xml files with their .bin."""

import re
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.runtimes import KEY, Loaded, card_of_text, need, one_at_a_time, run_once
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_seal, why_unreadable
from lit_ad.machine import no_device

_VIRTUAL = re.compile("(AUTO|MULTI|HETERO|BATCH)(:|$)")  # devices of OpenVINO that choose among others


def load_openvino(file: Path, device: str) -> Loaded:
    """By OpenVINO. For one caller it computes an image with all cores; for several, it is compiled once more, with a
    stream for each."""
    core = openvino_core()
    there = core.available_devices  # CPU, GPU.0, ...
    known = {*there, *(name.partition(".")[0] for name in there)}  # GPU.0, and GPU for any of that kind
    if device.upper() not in known and not _VIRTUAL.match(device.upper()):
        raise no_device(device, "OpenVINO", there)
    if not file.with_suffix(".bin").is_file():
        raise UserError(f"{file} needs its weights, {file.with_suffix('.bin').name}, beside it: copy both files")
    fingerprint = check_seal(file, file.with_suffix(".bin"))
    try:
        model = core.read_model(file)
    except Exception as error:
        raise UserError(f"{file} cannot be read by OpenVINO: {why_unreadable(error)}") from error
    card = card_of_text(_read_info(model, KEY), file)
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    # By itself it computes in bfloat16 where a processor can, and in float16 on a GPU: maps are 2 % off. An NPU has
    # float16 alone.
    if device == "cpu" or (card.precision == "fp32" and not device.startswith("npu")):
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        network = run_once(_openvino_network(core.compile_model(model, device.upper(), options)), card)
    except RuntimeError as error:
        raise UserError(f"{file} cannot be compiled for {device} by OpenVINO: {why_unreadable(error)}") from error

    def network_for(callers: int) -> Network:
        if device != "cpu":
            return one_at_a_time(network)
        streams = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": callers}
        return run_once(_openvino_network(core.compile_model(model, "CPU", streams)), card)

    openvino = need("openvino", "openvino")
    name = f"OpenVINO {openvino.__version__} ({_full_name(core, device)})"
    return Loaded(network, card, network_for, name, _read_info(model, CHECK_KEY), fingerprint)


def _read_info(model: Any, key: str) -> str | None:
    """What a model's file keeps under a key."""
    return str(model.get_rt_info([key]).astype(str)) if model.has_rt_info([key]) else None


def _full_name(core: Any, device: str) -> str:
    """What a device is called in full, such as the processor's name, where OpenVINO tells; of AUTO it does not."""
    with suppress(RuntimeError):
        return f"{device}, {core.get_property(device.upper(), 'FULL_DEVICE_NAME')}"
    return device


def _openvino_network(compiled: Any) -> Network:
    """A request serves one thread at a time, so that each thread has its own."""
    outputs, own = compiled.outputs, threading.local()

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer({"pixels": pixels})
        return (results[outputs[1]] if len(outputs) > 1 else None), results[outputs[0]]

    return run


@cache
def openvino_core() -> Any:
    """OpenVINO's entry point, one for as long as the process lives.

    Each that compiles a model gives its thread a stack for signals. Of two that end in the order in which they began,
    the second gives back the first one's, which is gone, and the next signal, a Ctrl-C say, is a segmentation fault
    (OpenVINO 2026.4).
    """
    return need("openvino", "openvino").Core()
