"""A checkpoint as a detector's network, run by torch."""

from pathlib import Path
from typing import Any

import torch

from lit_ad.detector.card import Card
from lit_ad.detector.runtimes import run_once, share_torch
from lit_ad.detector.scoring import Network, Output
from lit_ad.methods.base import Method


def load_checkpoint(path: Path, weights: str | Path | None = None, device: str = "cpu") -> tuple[Network, Card, Any]:
    """Return the network of a checkpoint, its card, and a function that makes the network for several callers.

    Raises:
        UserError: As `Method.load_from_checkpoint` does.
    """
    method: Method = Method.load_from_checkpoint(path, device, weights)
    method.requires_grad_(False)
    network = run_once(inference(method), method.card)
    return network, method.card, lambda callers: share_torch(network, callers, method.device.type)


def inference(method: Method) -> Network:
    """Return a method as a detector's network, outside of any training."""
    run = method.network()

    def infer(pixels: Any) -> Output:
        with torch.inference_mode():
            return Output(*run(pixels))

    return infer
