"""The PyTorch runtime of checkpoints; `detector.runtimes` has the runtimes of exported files."""

from functools import partial
from pathlib import Path

import torch

from lit_ad.detector.runtimes import Loaded, warm_up
from lit_ad.detector.torch_export import share_torch
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network


def load_network(path: Path, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
    """Return the network of a checkpoint, its card, and a function that makes a network for several callers at once.

    Raises:
        UserError: As `Method.load_from_checkpoint` does.
    """
    method: Method = Method.load_from_checkpoint(path, device, weights)
    method.requires_grad_(False)
    network = warm_up(make_inference_network(method), method.card)
    several = partial(share_torch, network, device=method.device.type)
    return Loaded(network, method.card, several, f"PyTorch {torch.__version__}")
