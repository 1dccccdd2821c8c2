"""A checkpoint as a detector's network, run by torch."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lit_ad import __version__
from lit_ad.deploy.detector import Card, Run
from lit_ad.methods.base import Method, qualified_name
from lit_ad.view import Floats


def load_checkpoint(path: Path, weights: str | Path | None = None, device: str = "cpu") -> tuple[Run, Card]:
    """The network of a checkpoint, and its card. Raises UserError as `Method.load_from_checkpoint` does."""
    method: Method = Method.load_from_checkpoint(path, device, weights)
    method.requires_grad_(False)

    def run(pixels: NDArray[np.uint8]) -> tuple[Floats | None, Floats]:
        with torch.inference_mode():
            prediction = method(torch.from_numpy(pixels).to(device))
        maps = prediction.anomaly_map
        assert prediction.score is not None
        return None if maps is None else maps.float().cpu().numpy(), prediction.score.float().cpu().numpy()

    return run, card_of(method)


def card_of(method: Method) -> Card:
    """What a method's file says of it."""
    with torch.no_grad():
        tile = method.view.tile or 0
        side = tile or 32 * (method.view.multiple or 1)
        probe = method.predict(torch.zeros(1, 3, side, side, device=method.device))
    return Card(
        qualified_name(type(method)), method.view, method.decision, method.top, probe.score is None, __version__
    )
