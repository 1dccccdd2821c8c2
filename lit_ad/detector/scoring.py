"""Turn a network's outputs into the map and the score of each image: the one judge of lit_ad. NumPy only.

Content, padding, region of interest, tiles and the top fraction of a map are handled here and nowhere else. Validation,
test, predict, `Detector`, the check of an export and the service all call `judge`.
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
from lit_ad.image.view import Box, Floats, original_map, visible_box


class Output(NamedTuple):
    """The outputs of a network for n inputs."""

    anomaly_map: Floats | None  # (n, 1, H, W), of the inputs' size; None: the method makes no maps
    score: Floats | None = None  # (n,); None: scores are computed from the maps (`Card.map_scored`)
    parts: Mapping[str, Floats] = {}  # further scores by name, (n,) each; never modified


Network = Callable[[Any], tuple[Any, ...]]
"""uint8 pixels (n, 3, H, W), an array of NumPy's or a tensor -> the fields of `Output`: a method, an ONNX session,
an OpenVINO model or a program of torch.export."""

NetworkFor = Callable[[int], Network]
"""n -> a network that n threads may call at the same time. Each thread uses 1 / n of the cores."""


class Judgement(NamedTuple):
    """The map and the score of one image, before any decision."""

    network_map: Floats | None  # (H, W): the map at the size of the network's input; None: the method makes no maps
    score: float  # raw; higher is more anomalous
    box: Box  # the part of the input that the image fills
    parts: Mapping[str, float] = {}  # further scores by name

    def original_map(self, size: Size, roi: Roi | None = None) -> Floats:
        """Return the anomaly map at the image's size, without padding: (H0, W0). `roi`: the view's region."""
        assert self.network_map is not None
        canvas = (self.network_map.shape[0], self.network_map.shape[1])
        return original_map(self.network_map, canvas, self.box, size, roi)

    @property
    def finite(self) -> bool:
        """Whether score, parts and map are free of NaN and infinity."""
        numbers = (self.score, *self.parts.values())
        return bool(np.isfinite(numbers).all()) and (
            self.network_map is None or bool(np.isfinite(self.network_map).all())
        )

    def refuse_not_finite(self, image: str) -> None:
        """Raise NotFiniteError, which names the image, if a number of this judgement is not finite."""
        if not self.finite:
            raise NotFiniteError(f"{image}: {NOT_FINITE}")


def judge(network: Network, pixels: Any, boxes: Sequence[Box], card: Card) -> list[Judgement]:
    """Judge n images whose network inputs have the same size.

    Args:
        network: It takes inputs of the view's size, or tiles.
        pixels: (n, 3, H, W) uint8, a NumPy array or a tensor, whichever the network takes.
        boxes: For each image, the box of its input that its content fills; the rest is padding.
        card: The detector's card.
    """
    if card.view.tile is not None:
        return [judge_tiles(network, image, box, card) for image, box in zip(pixels, boxes, strict=True)]
    output = Output(*network(pixels))
    judgements = []
    for i, box in enumerate(boxes):
        network_map = None if output.anomaly_map is None else output.anomaly_map[i, 0]
        own_score = None if output.score is None else float(output.score[i])
        parts = {name: float(scores[i]) for name, scores in output.parts.items()}
        judgements.append(Judgement(network_map, _choose_score(network_map, own_score, box, card), box, parts))
    return judgements


def judge_tiles(network: Network, image: Any, box: Box, card: Card) -> Judgement:
    """Judge one image, (3, H, W) uint8, tile by tile. The tiles' maps are stitched, and the whole map is scored.

    Scores that do not come from the map are the maximum over the tiles. In the padding, the map is 0.
    """
    top, left, bottom, right = box
    grid = card.view.grid((bottom - top, right - left))
    assert grid is not None
    maxima: dict[str, Any] = {}  # the maximum of each score over the tiles; "" is the network's own score

    def run_tiles() -> Iterator[Floats | None]:
        for tiles in grid.cut_batches(image[:, top:bottom, left:right], card.view.tile_batch):
            output = Output(*network(tiles))
            named = dict(output.parts) if output.score is None else {**output.parts, "": output.score}
            for name, scores in named.items():
                highest = np.max(scores) if np.isfinite(scores).all() else np.nan
                maxima[name] = np.maximum(maxima.get(name, -np.inf), highest)  # NaN stays NaN
            yield output.anomaly_map

    maps = run_tiles()
    first = next(maps)
    network_map = None
    if first is None:
        deque(maps, maxlen=0)  # there is no map, but the other tiles must still run for their scores
    else:
        network_map = np.zeros(image.shape[-2:], np.float32)
        network_map[top:bottom, left:right] = grid.stitch(chain([first], maps))[0, 0]
    own_score = maxima.pop("", None)
    score = _choose_score(network_map, None if own_score is None else float(own_score), box, card)
    return Judgement(network_map, score, box, {name: float(value) for name, value in maxima.items()})


def _choose_score(network_map: Floats | None, own_score: float | None, box: Box, card: Card) -> float:
    """Return the score of the part of the map (H, W) that lies in the box.

    Return the network's own score if there is no map, or if the map does not give the score (`card.map_scored`).
    """
    if network_map is None or not card.map_scored:
        assert own_score is not None, "a network gives a score, a map, or both"
        return own_score
    canvas = (network_map.shape[0], network_map.shape[1])
    top, left, bottom, right = visible_box(box, canvas)
    return top_mean(network_map[top:bottom, left:right], card.top, card.view.inside(canvas, box))


def top_mean(anomaly_map: Floats, top: float, inside: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of a map's highest pixels: the fraction `top` of them, but at least one.

    Args:
        anomaly_map: (h, w).
        top: In [0, 1]; 0: the maximum.
        inside: The pixels that count, (h, w). None: all.
    """
    values = anomaly_map.ravel() if inside is None else anomaly_map[inside]
    count = int(top * len(values))
    return float(values.max() if count < 2 else np.partition(values, -count)[-count:].mean(dtype=np.float64))
