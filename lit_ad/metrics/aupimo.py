"""Area under the per-image overlap curve, as its authors define it (Bertoldo et al., https://arxiv.org/abs/2401.01984).

The per-image overlap at a threshold is the share of an image's anomalous pixels at or above it. The false positive rate
at a threshold is the mean of the nominal images' own rates. The AUPIMO of an anomalous image is its mean overlap over
the false positive rates from 1e-5 to 1e-4, evenly on a logarithmic axis. It tells how much of a defect is found while
almost nothing nominal is marked.

An anomalous pixel is found at every false positive rate above the rate at its own score. So the AUPIMO of an image is
the mean, over its anomalous pixels, of the part of the axis above that rate: no curve of thresholds is needed. A pixel
that scores higher than all nominal pixels counts in full, even if there are too few nominal pixels to reach 1e-5 (the
authors' program leaves out that part of the axis). With 1e5 nominal pixels or more this makes no difference.

Memory: of each image (of an anomalous image: of its anomalous pixels), only some scores are kept: the `RESOLUTION`
highest, and below them scores whose ranks grow by the factor 1 + 1 / RESOLUTION. This takes 9 KiB for a nominal image
of a megapixel. A dropped score lies between two kept ones; `certificate()` bounds the error that this allows.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.metrics.checks import check_scores
from lit_ad.metrics.curves import ROUNDING
from lit_ad.metrics.lists import ListState
from lit_ad.metrics.state import decode_names, encode_names

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Images = list[tuple[Scores, int]]

BOUNDS = (1e-5, 1e-4)  # the authors' false positive rates
_DRAWN = np.geomspace(1e-6, 1, 121)  # the false positive rates of a curve's points
RESOLUTION = 256


class AUPIMO(ListState):
    """The mean area under the per-image overlap curves of the anomalous images, by group of images.

    Args:
        bounds: The false positive rates at which the axis begins and ends.
        exact: Whether every score is kept: for small data, and as a reference for the default.

    Raises:
        ValueError: The bounds are not two rising rates in (0, 1].
    """

    kinds: ClassVar[dict[str, torch.dtype]] = {
        **{"scores": torch.float32, "pixels": torch.int64, "labels": torch.int64, "names": torch.uint8}
    }
    scores: list[Tensor]  # (m,) each: the kept scores of an image, descending
    pixels: list[Tensor]  # (1,) each: how many pixels an image's kept scores represent
    labels: list[Tensor]  # (1,) each: 1 for an image with an anomalous pixel, else 0
    names: list[Tensor]  # each image's group, from `encode_names`

    def __init__(self, bounds: tuple[float, float] = BOUNDS, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < bounds[0] < bounds[1] <= 1:
            raise ValueError(f"bounds are two false positive rates in (0, 1], the lower one first, not {bounds}")
        self.bounds, self.exact = bounds, exact

    def update(
        self,
        anomaly_map: Tensor,
        mask: Tensor,
        group: str = "all",
        name: str = "image",
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one image.

        Args:
            anomaly_map: (H, W).
            mask: The anomalous pixels, (H, W), 0 or 1.
            group: The group of the image (see `groups`).
            name: The image's name in messages.
            inside: The pixels that count, (H, W). None: all.

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite (NotFinite), or the mask is not 0 or 1. The message
                names the image.
        """
        values, truth = check_scores(anomaly_map, mask, name)
        if inside is not None:
            values, truth = values[inside], truth[inside]
        label = bool(truth.any())
        descending = np.sort(values[truth] if label else values, axis=None)[::-1]
        if not len(descending):
            return
        kept = descending if self.exact else descending[select_ranks(len(descending))]
        self.scores.append(torch.from_numpy(kept.copy()).to(self.device))
        self.pixels.append(torch.tensor([len(descending)], device=self.device))
        self.labels.append(torch.tensor([int(label)], device=self.device))
        self.names.append(encode_names([group]).to(self.device))

    def compute(self) -> Tensor:
        """Return the mean over all anomalous images, a float64 scalar; NaN without an anomalous or a nominal image."""
        return torch.tensor(_average_or_nan(self._measure_areas(None)), dtype=torch.float64)

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
        """Return `aupimo` of each row, which is a set of groups. Unknown groups are ignored.

        The processes are merged once. Each process must call this, and gets the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {row: {"aupimo": _average_or_nan(self._measure_areas(groups))} for row, groups in rows.items()}

    def certificate(self) -> float:
        """Return an upper bound of the difference between `compute()` and the value from all scores."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            value, high, low = (
                _average_or_nan(self._measure_areas(None, *ends)) for ends in ((0.5, 0.5), (0.0, 1.0), (1.0, 0.0))
            )
        return float(np.maximum(high - value, value - low)) + ROUNDING

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Return the curve `pimo`, over all groups: false positive rates, and the mean overlap of the anomalous images.

        There is no curve without an anomalous or a nominal image. Every process must call this.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            good, bad = self._select_members(None)
        if not good or not bad:
            return {}
        thresholds, rates = _average_rates([(kept, count_represented(len(kept), n, 0.5) / n) for kept, n in good])
        infinity = np.float32(np.inf)
        # For each rate r of _DRAWN: the lowest threshold with a rate of at most r lies just above the highest nominal
        # score with a rate above r.
        cuts = np.append(-infinity, np.nextafter(thresholds, infinity))[np.searchsorted(-rates, -_DRAWN)]
        overlaps = [_measure_share_above(kept, count_represented(len(kept), n, 0.5), cuts) for kept, n in bad]
        return {"pimo": (_DRAWN, np.mean(overlaps, 0))}

    def _measure_areas(self, groups: Iterable[str] | None, nominal: float = 0.5, anomalous: float = 0.5) -> Floats:
        """Return the areas of the groups' A anomalous images, (A,).

        `nominal`, `anomalous`: the argument `above` of `count_represented`, for nominal and for anomalous images. Of
        the dropped scores between two kept ones, this fraction counts as the higher one.
        """
        good, bad = self._select_members(groups)
        if not good or not bad:
            return np.zeros(0)
        thresholds, rates = _average_rates([(kept, count_represented(len(kept), n, nominal) / n) for kept, n in good])
        gains = _measure_axis_above(rates, self.bounds)
        return np.array(
            [_measure_area(kept, count_represented(len(kept), n, anomalous), thresholds, gains) for kept, n in bad]
        )

    def _select_members(self, groups: Iterable[str] | None) -> tuple[Images, Images]:
        """Return the groups' nominal and anomalous images: for each, its kept scores, descending (m,), and the number
        of pixels that they represent."""
        pixels, labels = self._join("pixels"), self._join("labels")
        lengths = [count if self.exact else len(select_ranks(count)) for count in pixels.tolist()]
        scores = np.split(self._join("scores"), np.cumsum(lengths)[:-1]) if lengths else []
        names, wanted = decode_names(self._join("names")), None if groups is None else set(groups)
        members = [i for i, name in enumerate(names) if wanted is None or name in wanted]
        # Floating-point sums depend on the order. This order is the same for any number of processes.
        members.sort(key=lambda i: scores[i].tobytes())
        good, bad = ([(scores[i], int(pixels[i])) for i in members if labels[i] == label] for label in (0, 1))
        return good, bad


@lru_cache(maxsize=256)
def select_ranks(pixels: int) -> NDArray[np.int64]:
    """Return the ranks (m,) of the scores that are kept of `pixels` scores; 0 is the highest score.

    They are the first RESOLUTION ranks, then ranks with growing gaps, and the last one.
    """
    if pixels <= RESOLUTION:
        return np.arange(pixels)
    growth = np.log1p(1 / RESOLUTION)
    spread = RESOLUTION * np.exp(growth * np.arange(np.log(pixels / RESOLUTION) / growth))
    ranks = np.concatenate([np.arange(RESOLUTION), spread.astype(np.int64), [pixels - 1]])
    return np.unique(ranks.clip(max=pixels - 1))


def count_represented(kept: int, pixels: int, above: float) -> Floats:
    """Return how many pixels each kept score represents, (m,).

    Args:
        kept: The number of kept scores, m.
        pixels: The number of all scores.
        above: The fraction of the dropped scores between two kept ones that the higher one represents. The lower one
            represents the rest.
    """
    if kept == pixels:
        return np.ones(kept)
    hidden = np.diff(select_ranks(pixels)) - 1
    return 1 + above * np.append(hidden, 0) + (1 - above) * np.append(0, hidden)


def _average_rates(images: list[tuple[Scores, Floats]]) -> tuple[Scores, Floats]:
    """Return the distinct scores of nominal images, ascending (t,), and the false positive rate at each of them (t,).

    `images`: for each image its kept scores (m,), and the share of its pixels that each represents (m,).
    """
    thresholds, place = np.unique(np.concatenate([kept for kept, _ in images]), return_inverse=True)
    rates = np.bincount(place, np.concatenate([shares for _, shares in images])) / len(images)
    return thresholds, np.cumsum(rates[::-1])[::-1]


def _measure_axis_above(rates: Floats, bounds: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return, for each possible position of a pixel's score among the thresholds, the share of the logarithmic axis on
    which the pixel is found.

    If nominal pixels have the same score, the curve rises along a line from the rate above that score to the rate at
    it. This step counts half if the whole step lies on the axis, and not at all if it begins at a rate of 0.

    Args:
        rates: The false positive rates at t ascending thresholds: descending (t,).
        bounds: The rates at which the axis begins and ends.

    Returns:
        The shares for scores between two thresholds, from below all thresholds to above all, (t + 1,); and for scores
        equal to a threshold, (t,).
    """
    low, high = np.log(bounds[0]), np.log(bounds[1])
    ends = np.append(np.log(rates), -np.inf)  # ends[i] is the right end of step i, ends[i + 1] its left end
    clear = (high - np.clip(ends, low, high)) / (high - low)
    right, left = ends[:-1], ends[1:]
    clipped_left, clipped_right = np.clip(left, low, high), np.clip(right, low, high)
    line = np.isfinite(left) & (right > left)
    width = np.where(line, right - np.where(line, left, 0), 1)
    height = np.where(line, ((clipped_left + clipped_right) / 2 - np.where(line, left, 0)) / width, 0)
    tied = (high - clipped_right + (clipped_right - clipped_left) * height) / (high - low)
    return clear, tied


def _measure_area(scores: Scores, pixels: Floats, thresholds: Scores, gains: tuple[Floats, Floats]) -> float:
    """Return the area of one image.

    Args:
        scores: The image's kept scores, (m,).
        pixels: How many pixels each score represents, (m,).
        thresholds: The distinct scores of nominal images, ascending, (t,).
        gains: From `_measure_axis_above` of the thresholds' rates.
    """
    clear, tied = gains
    first, after = (np.searchsorted(thresholds, scores, side=side) for side in ("left", "right"))
    gain = np.where(after > first, tied[np.minimum(first, len(tied) - 1)], clear[first])
    return float(np.sum(gain * pixels) / np.sum(pixels))


def _measure_share_above(scores: Scores, pixels: Floats, cuts: Scores) -> Floats:
    """Return the share of an image's pixels at or above each of `cuts` (c,).

    `scores` (m,): the image's kept scores, descending. `pixels` (m,): how many pixels each represents.
    """
    above = np.append(0, np.cumsum(pixels))
    shares: Floats = above[len(scores) - np.searchsorted(scores[::-1], cuts)] / above[-1]
    return shares


def _average_or_nan(values: Floats) -> float:
    """Return the mean of values (n,); NaN if there are none."""
    return float(values.mean()) if len(values) else float("nan")
