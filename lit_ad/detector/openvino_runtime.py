"""Load .xml files, with their .bin of weights, with OpenVINO."""

import re
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.runtimes import KEY, Loaded, import_optional, lock_network, parse_card, warm_up
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_seal, why_unreadable
from lit_ad.machine import missing_device

_VIRTUAL = re.compile("(AUTO|MULTI|HETERO|BATCH)(:|$)")  # OpenVINO's virtual devices, which choose among the real ones


def load_openvino(file: Path, device: str) -> Loaded:
    """Load an .xml file on a device of OpenVINO's.

    For one caller, the model uses all cores for an image. For several callers on the CPU, `network_for` compiles it
    again, with a stream for each.

    Raises:
        UserError: openvino or the .bin is missing, a file is damaged, lit_ad did not write it, there is no such device,
            or the model cannot be compiled for it.
    """
    core = get_openvino_core()
    available = core.available_devices  # CPU, GPU.0, ...
    names = {*available, *(name.partition(".")[0] for name in available)}  # GPU.0, and GPU for the first of its kind
    if device.upper() not in names and not _VIRTUAL.match(device.upper()):
        raise missing_device(device, "OpenVINO", available)
    if not file.with_suffix(".bin").is_file():
        raise UserError(f"{file} needs its weights, {file.with_suffix('.bin').name}, beside it: copy both files")
    fingerprint = check_seal(file, file.with_suffix(".bin"))
    try:
        model = core.read_model(file)
    except Exception as error:
        raise UserError(f"{file} cannot be read by OpenVINO: {why_unreadable(error)}") from error
    card = parse_card(_read_info(model, KEY), file)
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    # By default OpenVINO computes in bfloat16 on processors that support it, and in float16 on a GPU: maps differ by
    # 2 %. An NPU has float16 only.
    if device == "cpu" or (card.precision == "fp32" and not device.startswith("npu")):
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        network = warm_up(_make_network(core.compile_model(model, device.upper(), options)), card)
    except RuntimeError as error:
        raise UserError(f"{file} cannot be compiled for {device} by OpenVINO: {why_unreadable(error)}") from error

    def network_for(callers: int) -> Network:
        if device != "cpu":
            return lock_network(network)
        streams = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": callers}
        return warm_up(_make_network(core.compile_model(model, "CPU", streams)), card)

    openvino = import_optional("openvino", "openvino")
    name = f"OpenVINO {openvino.__version__} ({_name_device(core, device)})"
    return Loaded(network, card, network_for, name, _read_info(model, CHECK_KEY), fingerprint)


def _read_info(model: Any, key: str) -> str | None:
    """Return the text that a model's file keeps under a key, or None."""
    return str(model.get_rt_info([key]).astype(str)) if model.has_rt_info([key]) else None


def _name_device(core: Any, device: str) -> str:
    """Return a device's name, with the product's name if OpenVINO knows it. AUTO is no product."""
    with suppress(RuntimeError):
        return f"{device}, {core.get_property(device.upper(), 'FULL_DEVICE_NAME')}"
    return device


def _make_network(compiled: Any) -> Network:
    """Return a compiled model as a network. Each thread has its own request, since a request serves one thread."""
    outputs, own = compiled.outputs, threading.local()

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer({"pixels": pixels})
        return (results[outputs[1]] if len(outputs) > 1 else None), results[outputs[0]]

    return run


@cache
def get_openvino_core() -> Any:
    """Return OpenVINO's Core: one object for the life of the process.

    A Core that compiles a model sets a signal stack for its thread, and at its end restores the stack before. If two
    Cores end in the order in which they began, the second restores the stack of the first, whose memory is freed. The
    next signal, such as Ctrl-C, then causes a segmentation fault (OpenVINO 2026.4).
    """
    return import_optional("openvino", "openvino").Core()
