"""Area under the per-image overlap curve, as its authors define it (Bertoldo et al., https://arxiv.org/abs/2401.01984).

Per-image overlap at a threshold: the share of an image's anomalous pixels at or above it. The false positive rate of a
threshold is that of nominal images alone, each image's own, averaged. AUPIMO of an anomalous image is its mean overlap
over the false positive rates of 1e-5 to 1e-4, which are taken evenly on a logarithmic axis: what is found where almost
nothing nominal is marked.

An anomalous pixel is found at every false positive rate above that of its own score. So an image's AUPIMO is the mean,
over its anomalous pixels, of the part of the axis that lies above: no curve of thresholds is needed. A pixel that
scores higher than all nominal ones counts in full, also where nominal pixels are too few to reach 1e-5 (the authors'
program leaves out that part of the axis); with 1e5 of them or more this makes no difference.

Memory: of each image the `RESOLUTION` highest scores of its pixels (nominal images) or of its anomalous pixels, and
below them ranks that grow by 1 + 1 / RESOLUTION: 9 KiB of a nominal image of a megapixel. The scores in between lie
between two that are kept; `certificate()` takes them at either end.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.metrics.curves import ROUNDING
from lit_ad.metrics.lists import ListState
from lit_ad.metrics.state import checked, decoded, encoded

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Images = list[tuple[Scores, int]]

BOUNDS = (1e-5, 1e-4)  # of the authors
_DRAWN = np.geomspace(1e-6, 1, 121)  # false positive rates of a curve's points
RESOLUTION = 256


class AUPIMO(ListState):
    """Mean area under the per-image overlap curves of the anomalous images, by group of images.

    Args:
        bounds: False positive rates where the curve's axis begins and ends.
        exact: Keep every score: for small data, and to check the default against.
    """

    kinds: ClassVar[dict[str, torch.dtype]] = {
        **{"scores": torch.float32, "pixels": torch.int64, "labels": torch.int64, "names": torch.uint8}
    }
    scores: list[Tensor]  # (m,) each: what is kept of an image, descending
    pixels: list[Tensor]  # (1,) each: how many pixels that stands for
    labels: list[Tensor]  # (1,) each: 1 of an image with an anomalous pixel
    names: list[Tensor]  # each image's group, as `encoded` has it

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
        """Add one image, 2 x (H, W), of a group; `name` is for messages. Given `inside` (H, W), the pixels in it alone.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite (NotFinite), the mask is not 0 or 1; names the image.
        """
        values, truth = checked(anomaly_map, mask, name)
        if inside is not None:
            values, truth = values[inside], truth[inside]
        label = bool(truth.any())
        counted = np.sort(values[truth] if label else values, axis=None)[::-1]
        if not len(counted):
            return
        kept = counted if self.exact else counted[kept_ranks(len(counted))]
        self.scores.append(torch.from_numpy(kept.copy()).to(self.device))
        self.pixels.append(torch.tensor([len(counted)], device=self.device))
        self.labels.append(torch.tensor([int(label)], device=self.device))
        self.names.append(encoded([group]).to(self.device))

    def compute(self) -> Tensor:
        """The mean over all anomalous images, a float64 scalar; nan without any, or without any nominal image."""
        return torch.tensor(mean(self._by_image(None)), dtype=torch.float64)

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
        """`aupimo` of each row, a set of groups by name; groups never seen count nothing.

        Merges the processes once; each of them must call it, and gets the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {row: {"aupimo": mean(self._by_image(groups))} for row, groups in rows.items()}

    def certificate(self) -> float:
        """The most that `compute()` can be off the value on all scores."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            value, high, low = (mean(self._by_image(None, *ends)) for ends in ((0.5, 0.5), (0.0, 1.0), (1.0, 0.0)))
        return float(np.maximum(high - value, value - low)) + ROUNDING

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Points (x, y) over all groups: `pimo`, the mean overlap of the anomalous images by false positive rate.

        Nothing without any, or without a nominal one. Every process must call it.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            good, bad = self._members(None)
        if not good or not bad:
            return {}
        thresholds, rates = _shared_rates([(kept, weights(len(kept), n, 0.5) / n) for kept, n in good])
        infinity = np.float32(np.inf)  # a rate is kept from right above the last score where it is exceeded
        cuts = np.append(-infinity, np.nextafter(thresholds, infinity))[np.searchsorted(-rates, -_DRAWN)]
        return {"pimo": (_DRAWN, np.mean([share_above(kept, weights(len(kept), n, 0.5), cuts) for kept, n in bad], 0))}

    def _by_image(self, groups: Iterable[str] | None, nominal: float = 0.5, anomalous: float = 0.5) -> Floats:
        """The areas (A,) of the groups' anomalous images; see `weights` of the two fractions."""
        good, bad = self._members(groups)
        if not good or not bad:
            return np.zeros(0)
        thresholds, rates = _shared_rates([(kept, weights(len(kept), n, nominal) / n) for kept, n in good])
        gains = _axis_above(rates, self.bounds)
        return np.array([overlap(kept, weights(len(kept), n, anomalous), thresholds, gains) for kept, n in bad])

    def _members(self, groups: Iterable[str] | None) -> tuple[Images, Images]:
        """The groups' nominal and anomalous images, each by its kept scores, descending (m,), and its pixels."""
        pixels, labels = self._joined("pixels"), self._joined("labels")
        kept = [count if self.exact else len(kept_ranks(count)) for count in pixels.tolist()]
        scores = np.split(self._joined("scores"), np.cumsum(kept)[:-1]) if kept else []
        names, wanted = decoded(self._joined("names")), None if groups is None else set(groups)
        members = [i for i, name in enumerate(names) if wanted is None or name in wanted]
        members.sort(key=lambda i: scores[i].tobytes())  # float64 sums depend on the order, and that on the processes
        good, bad = ([(scores[i], int(pixels[i])) for i in members if labels[i] == label] for label in (0, 1))
        return good, bad


@lru_cache(maxsize=256)
def kept_ranks(pixels: int) -> NDArray[np.int64]:
    """The ranks (m,) that are kept of so many scores, 0 the highest: the first ones, then ever fewer, and the last."""
    if pixels <= RESOLUTION:
        return np.arange(pixels)
    growth = np.log1p(1 / RESOLUTION)
    spread = RESOLUTION * np.exp(growth * np.arange(np.log(pixels / RESOLUTION) / growth))
    ranks = np.concatenate([np.arange(RESOLUTION), spread.astype(np.int64), [pixels - 1]])
    return np.unique(ranks.clip(max=pixels - 1))


def weights(kept: int, pixels: int, above: float) -> Floats:
    """How many of an image's pixels each kept score stands for (m,), where this fraction of those between two of them
    is taken at the higher one, the rest at the lower one."""
    if kept == pixels:
        return np.ones(kept)
    hidden = np.diff(kept_ranks(pixels)) - 1
    return 1 + above * np.append(hidden, 0) + (1 - above) * np.append(0, hidden)


def _shared_rates(images: list[tuple[Scores, Floats]]) -> tuple[Scores, Floats]:
    """The distinct scores of nominal images, ascending (t,), and the false positive rate at each as a threshold (t,);
    of each image its kept scores, and the share of its pixels that each stands for, 2 x (m,)."""
    thresholds, place = np.unique(np.concatenate([kept for kept, _ in images]), return_inverse=True)
    rates = np.bincount(place, np.concatenate([shares for _, shares in images])) / len(images)
    return thresholds, np.cumsum(rates[::-1])[::-1]


def _axis_above(rates: Floats, bounds: tuple[float, float]) -> tuple[Floats, Floats]:
    """The part of the logarithmic axis on which a pixel is found, whose score lies below each threshold and above the
    next lower one (t + 1,), from below all to above all, or is equal to it (t,); of descending rates (t,).

    Where nominal scores are equal to a pixel's, the curve rises along a line, so it is found on half of that step.
    """
    low, high = np.log(bounds[0]), np.log(bounds[1])
    ends = np.append(np.log(rates), -np.inf)  # a step's right end, and the next one is its left end
    clear = (high - np.clip(ends, low, high)) / (high - low)
    right, left = ends[:-1], ends[1:]
    seen_left, seen_right = np.clip(left, low, high), np.clip(right, low, high)
    line = np.isfinite(left) & (right > left)
    width = np.where(line, right - np.where(line, left, 0), 1)
    height = np.where(line, ((seen_left + seen_right) / 2 - np.where(line, left, 0)) / width, 0)
    tied = (high - seen_right + (seen_right - seen_left) * height) / (high - low)
    return clear, tied


def overlap(scores: Scores, pixels: Floats, thresholds: Scores, gains: tuple[Floats, Floats]) -> float:
    """The area of one image from its kept scores and how many pixels each stands for, 2 x (m,); thresholds (t,)
    ascending, and what `_axis_above` says of them."""
    clear, tied = gains
    first, after = (np.searchsorted(thresholds, scores, side=side) for side in ("left", "right"))
    gain = np.where(after > first, tied[np.minimum(first, len(tied) - 1)], clear[first])
    return float(np.sum(gain * pixels) / np.sum(pixels))


def share_above(scores: Scores, pixels: Floats, cuts: Scores) -> Floats:
    """The share of an image's pixels at or above each of some scores (c,); of its kept scores, descending, and how many
    pixels each stands for, 2 x (m,)."""
    above = np.append(0, np.cumsum(pixels))
    shares: Floats = above[len(scores) - np.searchsorted(scores[::-1], cuts)] / above[-1]
    return shares


def mean(values: Floats) -> float:
    """The mean of (n,), nan of none."""
    return float(values.mean()) if len(values) else float("nan")
