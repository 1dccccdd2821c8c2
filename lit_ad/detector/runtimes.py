"""Exported files, run by their own runtimes. For ONNX and OpenVINO nothing of torch or of training is imported."""

import importlib
import json
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card, read_card
from lit_ad.detector.scoring import Network, NetworkFor
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_seal, check_zip, why_unreadable
from lit_ad.machine import cores, no_device, torch_device
from lit_ad.names import utf8_path

KEY = "lit_ad"  # under which a file keeps its card
CUDA = "CUDAExecutionProvider"  # of ONNX Runtime
VIRTUAL = re.compile("(AUTO|MULTI|HETERO|BATCH)(:|$)")  # devices of OpenVINO that choose among others


def need(package: str, extra: str) -> Any:
    """An optional package. Raises UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"this needs the package {package}: pip install 'lit-ad[{extra}]' ({error})") from error


@cache
def openvino_core() -> Any:
    """OpenVINO's entry point, one for as long as the process lives.

    Each that compiles a model gives its thread a stack for signals. Of two that end in the order in which they began,
    the second gives back the first one's, which is gone, and the next signal, a Ctrl-C say, is a segmentation fault
    (OpenVINO 2026.4).
    """
    return need("openvino", "openvino").Core()


def load_exported(file: Path, device: str = "cpu") -> tuple[Network, Card, NetworkFor]:
    """The network of an exported file, its card, and the network for several callers.

    Args:
        file: .onnx, .xml or .pt2.
        device: cpu; cuda or cuda:1 for .onnx and .pt2; what OpenVINO calls it for .xml, such as GPU, NPU or AUTO.

    All bytes are compared with the file's checksum first: 0.6 s for each GiB, 0.3 s of a .pt2.

    Raises:
        UserError: It is not one of ours, it is damaged, its runtime is missing, or there is no such device.
    """
    load = {".onnx": load_onnx, ".xml": load_openvino, ".pt2": load_torch}[file.suffix]
    return load(file, device.lower())


def run_once(network: Network, card: Card) -> Network:
    """Run a network on a black image in this thread alone, and return it, ready to be shared by several threads.

    Libraries set things up at their first use, and of two threads that meet there each may wait for the other for ever:
    in OpenVINO's Python binding one is inside a call_once and waits for the interpreter's lock, which the other holds
    while it waits for the call_once. No signal ends that. 6 of 200 processes hung so.
    """
    network(card.view.black_input())
    return network


def load_onnx(file: Path, device: str) -> tuple[Network, Card, NetworkFor]:
    """By ONNX Runtime, on CUDA if `device` says so. For several callers there is a second session, of fewer threads."""
    runtime = need("onnxruntime", "onnx")
    providers = onnx_providers(runtime, device)
    check_seal(file)

    def session(threads: int = 0) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads  # 0: as many as there are cores
        # Threads that wait without spinning leave the cores to those that read images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            with utf8_path(file) as path:
                made = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its own kinds
            raise UserError(f"{file} cannot be read by ONNX Runtime: {why_unreadable(error)}") from error
        if device != "cpu" and CUDA not in made.get_providers():  # it says so in its log, and takes the CPU
            raise no_device(device, "ONNX Runtime", ["cpu"])
        return made

    def network_of(session: Any) -> Network:
        def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
            score, *maps = session.run(None, {"pixels": pixels})
            return (maps[0] if maps else None), score

        return run

    all_cores = session()
    card = card_of_text(all_cores.get_modelmeta().custom_metadata_map.get(KEY), file)
    network = run_once(network_of(all_cores), card)

    def network_for(callers: int) -> Network:
        if device != "cpu":
            return one_at_a_time(network)
        return run_once(network_of(session(max(1, cores() // callers))), card)

    return network, card, network_for


def onnx_providers(runtime: Any, device: str) -> list[Any]:
    """What ONNX Runtime calls a device. Raises UserError if it has no such device."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    built = CUDA in runtime.get_available_providers()
    if kind != "cuda" or not built or not (number.isdecimal() or device == kind):
        there = ["cpu", "cuda"] if built else ["cpu"]
        more = "" if built or kind != "cuda" else "; for cuda, pip install onnxruntime-gpu"
        raise no_device(device, "ONNX Runtime", there, more)
    return [(CUDA, {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def load_openvino(file: Path, device: str) -> tuple[Network, Card, NetworkFor]:
    """By OpenVINO. For one caller it computes an image with all cores; for several, it is compiled once more, with a
    stream for each."""
    core = openvino_core()
    there = core.available_devices  # CPU, GPU.0, ...
    known = {*there, *(name.partition(".")[0] for name in there)}  # GPU.0, and GPU for any of that kind
    if device.upper() not in known and not VIRTUAL.match(device.upper()):
        raise no_device(device, "OpenVINO", there)
    if not file.with_suffix(".bin").is_file():
        raise UserError(f"{file} needs its weights, {file.with_suffix('.bin').name}, beside it: copy both files")
    check_seal(file, file.with_suffix(".bin"))
    try:
        model = core.read_model(file)
    except Exception as error:
        raise UserError(f"{file} cannot be read by OpenVINO: {why_unreadable(error)}") from error
    card = card_of_text(model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None, file)
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "cpu":  # by itself it computes in bfloat16 where the processor can, and is half a per cent off
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        network = run_once(openvino_network(core.compile_model(model, device.upper(), options)), card)
    except RuntimeError as error:
        raise UserError(f"{file} cannot be compiled for {device} by OpenVINO: {why_unreadable(error)}") from error

    def network_for(callers: int) -> Network:
        if device != "cpu":
            return one_at_a_time(network)
        streams = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": callers}
        return run_once(openvino_network(core.compile_model(model, "CPU", streams)), card)

    return network, card, network_for


def openvino_network(compiled: Any) -> Network:
    """A request serves one thread at a time, so that each thread has its own."""
    outputs, own = compiled.outputs, threading.local()

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer({"pixels": pixels})
        return (results[outputs[1]] if len(outputs) > 1 else None), results[outputs[0]]

    return run


def load_torch(file: Path, device: str) -> tuple[Network, Card, NetworkFor]:
    """By torch.export. Its module keeps nothing between calls: several threads may run it at once."""
    torch = need("torch", "torch")
    place = torch_device(device)
    check_zip(file, file)
    extra = {KEY: ""}
    try:
        with utf8_path(file) as path:
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:
        raise UserError(f"{file} cannot be read by torch.export: {why_unreadable(error)}") from error
    card = card_of_text(extra[KEY], file)
    module = module_on(program, place)

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        with torch.inference_mode():
            score, *maps = module(torch.from_numpy(pixels).to(place))
        return (maps[0].float().cpu().numpy() if maps else None), score.float().cpu().numpy()

    return run_once(run, card), card, lambda callers: torch_for_callers(run, callers, place.type)


def module_on(program: Any, place: Any) -> Any:
    """Return an exported program's module, to run on a device of torch. Its operations name the device that it was
    exported on, and refuse tensors on another."""
    if place.type == "cpu":
        return program.module()
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, str(place)).module()


def torch_for_callers(network: Network, callers: int, device: str) -> Network:
    """A network of torch for several callers: each thread that calls it computes with a part of torch's threads."""
    if device != "cpu":
        return one_at_a_time(network)
    torch, own, setting = need("torch", "torch"), threading.local(), threading.Lock()

    def shared(pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        if not hasattr(own, "threads"):
            with setting:
                before = torch.get_num_threads()
                own.threads = max(1, before // callers)
                torch.set_num_threads(own.threads)  # of this thread, and of those that begin later: not of these
                later = threading.Thread(target=torch.set_num_threads, args=(before,))
                later.start()
                later.join()
        return network(pixels)

    return shared


def one_at_a_time(network: Network) -> Network:
    """A network of a GPU for several callers: its memory is for one batch."""
    alone = threading.Lock()

    def shared(pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        with alone:
            return network(pixels)

    return shared


def card_of_text(text: Any, file: Path) -> Card:
    """Raises UserError if the file has no card of ours, or one that cannot be read."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        values = None
    return read_card(values, file)
