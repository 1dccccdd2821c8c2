"""From what a network says to what is said of an image: the one judge, whoever runs the network.

Content, padding, region of interest, tiles and the top fraction of a map are dealt with here and nowhere else.
Validation, test, predict, a program's Detector, the check of an export and the service all call `judge`. NumPy only.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card
from lit_ad.errors import NOT_FINITE, NotFiniteError
from lit_ad.image.pixels import Size
from lit_ad.image.roi import Roi
from lit_ad.image.view import Box, Floats, original_map, visible


class Output(NamedTuple):
    """What a network says of n inputs."""

    anomaly_map: Floats | None  # (n, 1, H, W), of the inputs' size; None of image-level methods
    score: Floats | None = None  # (n,); None where scores are the map's (`Card.map_scored`)
    parts: Mapping[str, Floats] = {}  # further scores by name, (n,) each; never written to


Network = Callable[[Any], tuple[Any, ...]]
"""uint8 pixels (n, 3, H, W), an array of NumPy's or a tensor -> the fields of `Output`: a method, an ONNX session,
an OpenVINO model or a program of torch.export."""

NetworkFor = Callable[[int], Network]
"""A number of callers -> the network for as many at a time, each of whom has that part of the cores."""


class Judgement(NamedTuple):
    """What a detector says of one image, before any decision."""

    seen: Floats | None  # (H, W): the map of the network's input; None of image-level methods
    score: float  # raw; higher is more anomalous
    box: Box  # that the image fills in the input
    parts: Mapping[str, float] = {}  # further scores by name

    def original_map(self, size: Size, roi: Roi | None = None) -> Floats:
        """Return the anomaly map without padding at the image's size: (H0, W0). `roi`: the view's region."""
        assert self.seen is not None
        return original_map(self.seen, (self.seen.shape[0], self.seen.shape[1]), self.box, size, roi)

    @property
    def finite(self) -> bool:
        """Whether score, parts and map have no NaN and no infinity."""
        numbers = (self.score, *self.parts.values())
        return bool(np.isfinite(numbers).all()) and (self.seen is None or bool(np.isfinite(self.seen).all()))

    def refuse_not_finite(self, image: str) -> None:
        """Raise NotFiniteError that names the image if there is no verdict on it."""
        if not self.finite:
            raise NotFiniteError(f"{image}: {NOT_FINITE}")


def judge(network: Network, pixels: Any, boxes: Sequence[Box], card: Card) -> list[Judgement]:
    """Judge images whose network inputs have one size.

    Args:
        network: Runs inputs of the view's size, or tiles.
        pixels: (n, 3, H, W) uint8, of NumPy or torch: the network takes what is given here.
        boxes: Of each image, the box that its content fills in its pixels; what is outside is padding.
        card: Of the detector.
    """
    if card.view.tile is not None:
        return [judge_tiles(network, image, box, card) for image, box in zip(pixels, boxes, strict=True)]
    output = Output(*network(pixels))
    judgements = []
    for i, box in enumerate(boxes):
        seen = None if output.anomaly_map is None else output.anomaly_map[i, 0]
        own = None if output.score is None else float(output.score[i])
        parts = {name: float(scores[i]) for name, scores in output.parts.items()}
        judgements.append(Judgement(seen, _final_score(seen, own, box, card), box, parts))
    return judgements


def judge_tiles(network: Network, image: Any, box: Box, card: Card) -> Judgement:
    """Judge one image, (3, H, W) uint8, whose content is run in tiles: their maps become one, which is scored whole.

    Scores that do not come from the map are the maximum over the tiles. Around the content the map is 0.
    """
    top, left, bottom, right = box
    grid = card.view.grid((bottom - top, right - left))
    assert grid is not None
    worst: dict[str, Any] = {}

    def run_tiles() -> Iterator[Floats | None]:
        for tiles in grid.batches(image[:, top:bottom, left:right], card.view.tile_batch):
            output = Output(*network(tiles))
            named = dict(output.parts) if output.score is None else {**output.parts, "": output.score}
            for name, scores in named.items():
                highest = np.max(scores) if np.isfinite(scores).all() else np.nan
                worst[name] = np.maximum(worst.get(name, -np.inf), highest)  # NaN stays NaN
            yield output.anomaly_map

    maps = run_tiles()
    first = next(maps)
    seen = None
    if first is None:
        deque(maps, maxlen=0)  # for their scores
    else:
        seen = np.zeros(image.shape[-2:], np.float32)
        seen[top:bottom, left:right] = grid.stitch(chain([first], maps))[0, 0]
    own = worst.pop("", None)
    score = _final_score(seen, None if own is None else float(own), box, card)
    return Judgement(seen, score, box, {name: float(value) for name, value in worst.items()})


def _final_score(seen: Floats | None, own: float | None, box: Box, card: Card) -> float:
    """Return the network's own score, or that of the map's content in `box`, (H, W)."""
    if seen is None or not card.map_scored:
        assert own is not None, "a score, a map, or both"
        return own
    canvas = (seen.shape[0], seen.shape[1])
    top, left, bottom, right = visible(box, canvas)
    return top_mean(seen[top:bottom, left:right], card.top, card.view.inside(canvas, box))


def top_mean(anomaly_map: Floats, top: float, inside: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of the highest `top` of a map's pixels (h, w), or of those inside; of one pixel at least."""
    values = anomaly_map.ravel() if inside is None else anomaly_map[inside]
    count = int(top * len(values))
    return float(values.max() if count < 2 else np.partition(values, -count)[-count:].mean(dtype=np.float64))
