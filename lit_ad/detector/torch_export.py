"""torch.export, for .pt2 files, and threads of torch for several callers."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.runtimes import KEY, Loaded, card_of_text, need, one_at_a_time, run_once
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.errors import UserError
from lit_ad.image.view import Floats
from lit_ad.integrity import check_zip, why_unreadable, zip_fingerprint
from lit_ad.machine import torch_device
from lit_ad.names import utf8_path


def load_torch(file: Path, device: str) -> Loaded:
    """By torch.export. Its module keeps nothing between calls: several threads may run it at once."""
    torch = need("torch", "torch")
    place = torch_device(device)
    check_zip(file, file)
    extra = {KEY: "", CHECK_KEY: ""}
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

    return Loaded(
        run_once(run, card),
        card,
        lambda callers: torch_for_callers(run, callers, place.type),
        f"PyTorch {torch.__version__}",
        extra[CHECK_KEY] or None,
        zip_fingerprint(file),
    )


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
