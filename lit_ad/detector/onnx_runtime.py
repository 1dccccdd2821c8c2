"""ONNX Runtime, for .onnx files."""

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
from lit_ad.machine import cores, no_device
from lit_ad.names import utf8_path

CUDA = "CUDAExecutionProvider"  # of ONNX Runtime


def load_onnx(file: Path, device: str) -> Loaded:
    """By ONNX Runtime, on CUDA if `device` says so. For several callers there is a second session, of fewer threads."""
    runtime = need("onnxruntime", "onnx")
    providers = onnx_providers(runtime, device)
    fingerprint = check_seal(file)

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
    metadata = all_cores.get_modelmeta().custom_metadata_map
    card = card_of_text(metadata.get(KEY), file)
    network = run_once(network_of(all_cores), card)

    def network_for(callers: int) -> Network:
        if device != "cpu":
            return one_at_a_time(network)
        return run_once(network_of(session(max(1, cores() // callers))), card)

    name = f"ONNX Runtime {runtime.__version__} ({', '.join(all_cores.get_providers())})"
    return Loaded(network, card, network_for, name, metadata.get(CHECK_KEY), fingerprint)


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
