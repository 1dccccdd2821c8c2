"""A checkpoint as a detector's network, run by torch."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lit_ad import __version__
from lit_ad.detector.card import Card, Run, Share
from lit_ad.detector.runtimes import share_torch
from lit_ad.image.view import Floats
from lit_ad.methods.base import Method, qualified_name


def load_checkpoint(path: Path, weights: str | Path | None = None, device: str = "cpu") -> tuple[Run, Card, Share]:
    """The network of a checkpoint, its card, and the network for several callers. Raises UserError as
    `Method.load_from_checkpoint` does."""
    method: Method = Method.load_from_checkpoint(path, device, weights)
    method.requires_grad_(False)
    run = run_of(method)
    return run, card_of(method), lambda callers: share_torch(run, callers, device)


def run_of(method: Method) -> Run:
    """A method as a detector's network."""
    device = method.device

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        with torch.inference_mode():
            prediction = method(torch.from_numpy(pixels).to(device))
        maps = prediction.anomaly_map
        assert prediction.score is not None
        return None if maps is None else maps.float().cpu().numpy(), prediction.score.float().cpu().numpy()

    return run


def card_of(method: Method) -> Card:
    """What a method's file says of it."""
    view = method.view
    size = (view.tile, view.tile) if view.tile else view(view.blank())[0].shape[:2]
    with torch.no_grad():
        probe = method.predict(torch.zeros(1, 3, *size, device=method.device))
    return Card(
        qualified_name(type(method)), method.view, method.decision, method.top, probe.score is None, __version__
    )
