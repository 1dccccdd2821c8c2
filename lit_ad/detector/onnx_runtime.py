"""Load .onnx files with ONNX Runtime."""

from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.onnx_gpu import (
    INSTALL,
    LARGEST_BATCH,
    bind_network,
    find_tensorrt_version,
    list_gpu_providers,
    make_engine_folder,
    parse_gpu,
)
from lit_ad.detector.runtimes import KEY, Loaded, import_optional, parse_card, warm_up
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_seal, first_line, why_unreadable
from lit_ad.machine import cores, missing_device
from lit_ad.names import utf8_path

CPU = "CPUExecutionProvider"


def load_onnx(file: Path, device: str) -> Loaded:
    """Load an .onnx file on `device`: cpu, or a GPU by CUDA (cuda, cuda:1) or TensorRT (tensorrt, tensorrt:1).

    Raises:
        UserError: onnxruntime is missing, the file is damaged, lit_ad did not write it, or there is no such device.
    """
    runtime = import_optional("onnxruntime", "onnx")
    return _load_on_cpu(runtime, file) if device == "cpu" else _load_on_gpu(runtime, file, device)


def _load_on_cpu(runtime: Any, file: Path) -> Loaded:
    """Load a file for the CPU. For several callers, `network_for` makes a second session with fewer threads."""
    fingerprint = check_seal(file)
    all_cores = make_session(runtime, file, [CPU])
    metadata = all_cores.get_modelmeta().custom_metadata_map
    card = parse_card(metadata.get(KEY), file)
    network = warm_up(make_network(all_cores), card)

    def network_for(callers: int) -> Network:
        return warm_up(make_network(make_session(runtime, file, [CPU], max(1, cores() // callers))), card)

    name = f"ONNX Runtime {runtime.__version__} ({CPU})"
    return Loaded(network, card, network_for, name, metadata.get(CHECK_KEY), fingerprint)


def _load_on_gpu(runtime: Any, file: Path, device: str) -> Loaded:
    """Load a file for a GPU. The network runs one call at a time, because the GPU's memory is for one batch.

    Raises:
        UserError: There is no such GPU, or the libraries of CUDA or TensorRT are missing.
    """
    kind, number = parse_gpu(runtime, device)
    fingerprint = check_seal(file)
    metadata = read_metadata(runtime, file)
    card = parse_card(metadata.get(KEY), file)
    engines = make_engine_folder(file, fingerprint) if kind == "tensorrt" else None
    session = make_gpu_session(runtime, file, device, list_gpu_providers(runtime, kind, number, card, engines), engines)
    largest = LARGEST_BATCH if kind == "tensorrt" else None
    network = warm_up(bind_network(runtime, session, "cuda", number, largest), card)
    name = f"ONNX Runtime {runtime.__version__} ({', '.join(session.get_providers())})"
    if kind == "tensorrt":
        name += f", TensorRT {find_tensorrt_version()}"
    return Loaded(network, card, lambda callers: network, name, metadata.get(CHECK_KEY), fingerprint)


def make_gpu_session(runtime: Any, file: Path, device: str, providers: Sequence[Any], engines: Path | None) -> Any:
    """Return a session that uses the first provider.

    Without CUDA's libraries, ONNX Runtime would print a page of errors and use the CPU; this is an error instead.

    Raises:
        UserError: The first provider does not work. An empty folder for engines is then removed.
    """
    runtime.set_default_logger_severity(4)  # fatal errors only
    try:
        if hasattr(runtime, "preload_dlls"):  # since 1.21: loads CUDA and cuDNN if pip has installed them
            with redirect_stdout(None):
                runtime.preload_dlls()
        session = make_session(runtime, file, providers)
        if providers[0][0] in session.get_providers():
            return session
        reason = ""
    except UserError as error:  # not the file's fault: its metadata were read
        reason = f" ({first_line(error.__cause__)})" if isinstance(error.__cause__, Exception) else ""
    finally:
        runtime.set_default_logger_severity(2)  # warnings, ONNX Runtime's default
    if engines is not None:
        with suppress(OSError):
            engines.rmdir()
            engines.parent.rmdir()
    kind = device.partition(":")[0]
    missing = f"; there is no GPU, no driver, or {kind} is missing: pip install {INSTALL[kind]}{reason}"
    raise missing_device(device, "ONNX Runtime", ["cpu"], missing)


def make_session(runtime: Any, file: Path, providers: Sequence[Any], threads: int = 0, optimised: bool = True) -> Any:
    """Return a session for a file.

    Args:
        runtime: The package onnxruntime.
        file: The .onnx file.
        providers: Names of providers, or pairs of a name and options.
        threads: On the CPU. 0: one for each core.
        optimised: Whether the graph is optimised, which takes time.

    Raises:
        UserError: The file cannot be read.
    """
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A thread that waits does not spin, so that the cores are free for the threads that read images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        with utf8_path(file) as path:
            # The fallback would print, and use another device than the caller asked for.
            return runtime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=False)
    except Exception as error:  # onnxruntime has exceptions of its own
        raise UserError(f"{file} cannot be read by ONNX Runtime: {why_unreadable(error)}") from error


def read_metadata(runtime: Any, file: Path) -> dict[str, str]:
    """Return the metadata of a file, read by a CPU session: the options of a GPU session depend on the metadata."""
    session = make_session(runtime, file, [CPU], optimised=False)
    return dict(session.get_modelmeta().custom_metadata_map)


def make_network(session: Any) -> Network:
    """Return a session as a network. Several threads may run it at the same time."""

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        score, *maps = session.run(None, {"pixels": pixels})
        return (maps[0] if maps else None), score

    return run
