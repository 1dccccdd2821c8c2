"""Wrap a method as the network that `detector.scoring.judge` runs: uint8 pixels in, arrays of maps and scores out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lit_ad.batch import Prediction
from lit_ad.detector.scoring import Network, Output
from lit_ad.image.view import Floats, View, visible_box
from lit_ad.methods.maps import upsample


class Predicting(Protocol):
    """The part of a method that `make_network` uses."""

    map_scored: bool

    @property
    def device(self) -> torch.device: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def predict(self, images: Tensor, features: list[Tensor] | None = None) -> Prediction: ...

    def assess(self, images: Tensor, features: list[Tensor] | None = None) -> tuple[Prediction, Tensor]: ...


def make_network(
    method: Predicting, features: list[Tensor] | None = None, losses: list[tuple[Tensor, int]] | None = None
) -> Network:
    """Return a method as the network that `judge` runs, in eval mode.

    Args:
        method: Each call puts it in eval mode, and afterwards back in the mode that it had.
        features: Cached features of the images that the network will be called with, (B, ...) each. None: the method's
            frozen part computes them.
        losses: Receives the loss and the number of images of each call. None: no loss is computed.
    """

    def run(pixels: Any) -> Output:
        images = as_images(torch.as_tensor(pixels).to(method.device))
        with eval_mode(method):
            if losses is None:
                prediction = method.predict(images, features)
            else:
                prediction, loss = method.assess(images, features)
                losses.append((loss, len(images)))
            maps, score, parts = upsample_maps(method, prediction, images)
        if score is not None and score.shape != (len(images),):
            shape = f"{tuple(score.shape)} for {len(images)} images"
            raise ValueError(f"{type(method).__name__} gave scores of shape {shape}: `detect` must return one for each")
        arrays = {name: _as_array(part) for name, part in parts.items()}
        return Output(None if maps is None else _as_array(maps), None if score is None else _as_array(score), arrays)

    return run


def make_inference_network(method: Predicting) -> Callable[[Any], Output]:
    """Return a method as a network that runs in PyTorch's inference mode, for a detector outside of training."""
    run = make_network(method)

    def infer(pixels: Any) -> Output:
        with torch.inference_mode():
            return Output(*run(pixels))

    return infer


@contextmanager
def eval_mode(model: nn.Module | Predicting) -> Iterator[None]:
    """Put a model in eval mode for a `with` block; afterwards each module is in the mode that it had before."""
    training = [part for part in model.modules() if part.training]  # none in a loaded detector: threads may share it
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def as_images(pixels: Tensor) -> Tensor:
    """Scale uint8 pixels (B, 3, H, W) to float32 in [0, 1]; each network normalises by its own mean and deviation.

    On a CPU, the memory format is channels last: convolutions need not convert it, which saves an eighth of MKD's step.
    """
    if pixels.device.type == "cpu":
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return pixels.float() / 255


def upsample_maps(method: Predicting, prediction: Prediction, inputs: Tensor) -> Prediction:
    """Resize the maps of a prediction to the size of the network's inputs (B, 3, H, W), where most papers score them.

    The maximum of the small map is about 10 % higher, so scores of the two sizes are not comparable. The authors of
    EfficientAD and Dinomaly score at other sizes: the docstrings of these methods say what that changes.

    Raises:
        ValueError: The method's `map_scored` and its prediction contradict each other.
    """
    if prediction.anomaly_map is None:
        return prediction
    if method.map_scored != (prediction.score is None):
        raise ValueError(
            f"{type(method).__name__}.map_scored is {method.map_scored}, but `detect` returns "
            f"{'no score' if prediction.score is None else 'a score'}: True is for methods whose score is the map's"
        )
    return prediction._replace(anomaly_map=upsample(prediction.anomaly_map, (inputs.shape[-2], inputs.shape[-1])))


def select_region(maps: Tensor, view: View) -> Tensor:
    """Return the pixels of maps (B, 1, H, W) inside the mask of a view's region of interest, (B, 1, 1, n). Without a
    mask, or with tiles, return the maps unchanged."""
    region = view.region
    if view.tile is not None or region is None or region.inside is None:
        return maps
    canvas, box = (maps.shape[-2], maps.shape[-1]), view(view.blank())[1]
    top, left, bottom, right = visible_box(box, canvas)
    inside = view.inside(canvas, box)
    assert inside is not None
    places = torch.tensor(np.flatnonzero(inside).tolist(), device=maps.device)
    return maps[..., top:bottom, left:right].flatten(2).index_select(2, places)[:, :, None]


def _as_array(values: Tensor) -> Floats:
    """Return a tensor as a float32 array of the same shape."""
    return values.detach().float().cpu().numpy()
