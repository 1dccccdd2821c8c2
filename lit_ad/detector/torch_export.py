"""Load .pt2 files with torch.export, and share torch's threads among several callers."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.runtimes import KEY, Loaded, import_optional, lock_network, parse_card, warm_up
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_zip, fingerprint_zip, why_unreadable
from lit_ad.machine import torch_device
from lit_ad.names import utf8_path


def load_torch(file: Path, device: str) -> Loaded:
    """Load a .pt2 file on cpu, cuda or cuda:1. Its module has no state, so several threads may run it at the same time.

    Raises:
        UserError: torch is missing, the file is damaged, lit_ad did not write it, or there is no such device.
    """
    torch = import_optional("torch", "torch")
    place = torch_device(device)
    check_zip(file, file)
    extra = {KEY: "", CHECK_KEY: ""}
    try:
        with utf8_path(file) as path:
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:
        raise UserError(f"{file} cannot be read by torch.export: {why_unreadable(error)}") from error
    card = parse_card(extra[KEY], file)
    module = move_module(program, place)

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        with torch.inference_mode():
            score, *maps = module(torch.from_numpy(pixels).to(place))
        return (maps[0].float().cpu().numpy() if maps else None), score.float().cpu().numpy()

    return Loaded(
        warm_up(run, card),
        card,
        lambda callers: share_torch(run, callers, place.type),
        f"PyTorch {torch.__version__}",
        extra[CHECK_KEY] or None,
        fingerprint_zip(file),
    )


def move_module(program: Any, place: Any) -> Any:
    """Return the module of an exported program, moved to a device of torch.

    The operations of a program name the device on which it was exported, and refuse tensors on another.
    """
    if place.type == "cpu":
        return program.module()
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, str(place)).module()


def share_torch(network: Network, callers: int, device: str) -> Network:
    """Return a network of torch that several threads may call, each with a part of torch's threads."""
    if device != "cpu":
        return lock_network(network)
    torch, own, lock = import_optional("torch", "torch"), threading.local(), threading.Lock()

    def run(pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        if not hasattr(own, "threads"):
            with lock:
                before = torch.get_num_threads()
                own.threads = max(1, before // callers)
                # This sets the number for the calling thread and for threads that start later. Another thread sets the
                # number for later threads back.
                torch.set_num_threads(own.threads)
                restorer = threading.Thread(target=torch.set_num_threads, args=(before,))
                restorer.start()
                restorer.join()
        return network(pixels)

    return run
