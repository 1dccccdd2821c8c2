"""From scores to verdicts: thresholds and p-values from nominal images held out of training. NumPy only.

Held-out and new nominal images are exchangeable, so p = (1 + #{held-out scores >= score}) / (n + 1) is a valid p-value
whatever the distribution of scores (split conformal prediction; Vovk et al., 2005; Bates et al., 2023,
https://arxiv.org/abs/2104.08279): a nominal image has p <= r with a probability of at most r.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_ad.errors import NOT_FINITE, NotFiniteError, UserError

Floats = NDArray[np.float64]
Regions = list["Region"]
NO_DECISION = (
    "this model has no threshold, and so gives no verdicts and no p-values: no validation scored these weights, which "
    "were saved between two. `lit-ad recalibrate --ckpt_path FILE --nominal FOLDER` sets a threshold by good images"
)
POOLED = None  # the category of an image whose own is not known: all held-out images together


@dataclass(frozen=True)
class Decision:
    """What is done about a score.

    Args:
        scores: Of the nominal held-out images, (n,) by category.
        maxima: Of their anomaly maps; nothing for methods without maps.
        medians: Of their anomaly maps, where colours begin.
        false_alarm: The rate of nominal images that may be called anomalous, and of those that may have any anomalous
            pixel.

    Raises:
        UserError: No score, one that is not finite, or a rate outside (0, 1).
    """

    scores: Mapping[str, Floats]
    maxima: Mapping[str, Floats] = field(default_factory=dict)
    medians: Mapping[str, Floats] = field(default_factory=dict)
    false_alarm: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 1:
            raise UserError(f"decision.false_alarm is a rate between 0 and 1, not {self.false_alarm}")
        for name in ("scores", "maxima", "medians"):
            values = {
                category: np.sort(np.asarray(of, np.float64)) for category, of in sorted(getattr(self, name).items())
            }
            wrong = [category for category, of in values.items() if not np.isfinite(of).all()]
            if wrong:
                raise UserError(
                    f"held-out nominal images of {wrong[0] or 'this model'} have {name} that are NaN or infinite: the "
                    "training has diverged; lower the learning rate"
                )
            object.__setattr__(self, name, values)
        if not any(len(of) for of in self.scores.values()):
            raise UserError("a decision needs the scores of held-out nominal images, and there are none")

    def with_rate(self, false_alarm: float) -> "Decision":
        """The same held-out images, and another false-alarm rate."""
        return replace(self, false_alarm=false_alarm)

    def p_value(self, score: ArrayLike, category: str | None = POOLED) -> Any:
        """How probable a score this high or higher is of a nominal image: (...) -> (...), in [1 / (n + 1), 1].

        Raises NotFiniteError.
        """
        refuse_not_finite("the image", score)
        held = of_category(self.scores, category)
        above = len(held) - np.searchsorted(held, np.asarray(score, np.float64), side="left")
        return (1 + above) / (len(held) + 1)

    def threshold(self, category: str | None = POOLED) -> float:
        """An image is anomalous where its score lies above this."""
        return conformal_threshold(of_category(self.scores, category), self.false_alarm)

    def pixel_threshold(self, category: str | None = POOLED) -> float | None:
        """A pixel is anomalous where the map lies above this. None without maps."""
        held = of_category(self.maxima, category)
        return conformal_threshold(held, self.false_alarm) if len(held) else None

    def anomalous(self, score: float, category: str | None = POOLED) -> bool:
        """The verdict. Raises NotFiniteError."""
        refuse_not_finite("the image", score)
        return bool(score > self.threshold(category))

    def verdict(self, score: float, category: str | None = POOLED) -> str:
        """In a word."""
        return "anomalous" if self.anomalous(score, category) else "nominal"

    def mask(self, anomaly_map: NDArray[np.float32], category: str | None = POOLED) -> NDArray[np.bool_]:
        """Where an anomaly map is anomalous, (H, W) -> (H, W).

        Raises UserError if no held-out image had a map, and NotFiniteError.
        """
        threshold = self.pixel_threshold(category)
        if threshold is None:
            raise UserError("there is no pixel threshold: the held-out images of this model had no anomaly maps")
        refuse_not_finite("the image", anomaly_map)
        return anomaly_map > threshold

    def colour_range(self, category: str | None = POOLED) -> tuple[float, float] | None:
        """Where heatmap colours begin and end: the middle of nominal pixels, and as far again beyond the pixel
        threshold, which is thus the middle of the scale. None without maps."""
        threshold, medians = self.pixel_threshold(category), of_category(self.medians, category)
        if threshold is None or not len(medians):
            return None
        low = float(np.median(medians))
        return low, low + 2 * (threshold - low)

    def smallest_rate(self, category: str | None = POOLED) -> float:
        """The lowest false-alarm rate that the number of held-out images allows: 1 / (n + 1)."""
        return 1 / (len(of_category(self.scores, category)) + 1)

    def warnings(self) -> list[str]:
        """One for each category whose held-out images are too few for the rate."""
        said = []
        for category, held in self.scores.items():
            if self.smallest_rate(category) > self.false_alarm:
                of = f" of {category}" if len(self.scores) > 1 else ""
                needed = math.ceil(1 / self.false_alarm) - 1
                said.append(
                    f"{len(held)} held-out nominal images{of} allow a false-alarm rate of "
                    f"{self.smallest_rate(category):.3g} and no lower, where decision.false_alarm is "
                    f"{self.false_alarm:.3g}: hold out {needed} or more, or ask for a higher rate"
                )
        return said

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for checkpoints and exported files."""
        held = {name: {c: of.tolist() for c, of in getattr(self, name).items()} for name in HELD}
        return {**held, "false_alarm": self.false_alarm}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Decision":
        """The inverse of `to_dict`."""
        return cls(**values)


@dataclass(frozen=True)
class Region:
    """Connected anomalous pixels (8-connected), in pixels of the image."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
    area: int
    peak: float  # the map's maximum in it


def regions(mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> Regions:
    """The regions of a mask, 2 x (H, W), the highest peak first.

    Runs of each row are joined with those of the row above that touch them (union-find), so that the work grows with
    the runs and not with the pixels.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, here = int(first[row - 1]), int(first[row])
        while above < first[row] and here < first[row + 1]:
            if starts[above] <= ends[here] and starts[here] <= ends[above]:  # touch, at a corner too
                parent[root(here)] = root(above)
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    found: dict[int, list[int]] = {}
    for run in range(len(rows)):
        found.setdefault(root(run), []).append(run)
    result = []
    for runs in found.values():
        top, bottom = int(rows[runs[0]]), int(rows[runs[-1]]) + 1
        box = (top, int(starts[runs].min()), bottom, int(ends[runs].max()))
        peak = max(float(anomaly_map[rows[run], starts[run] : ends[run]].max()) for run in runs)
        result.append(Region(box, int((ends[runs] - starts[runs]).sum()), peak))
    return sorted(result, key=lambda region: -region.peak)


HELD = ("scores", "maxima", "medians")


def of_category(values: Mapping[str, Floats], category: str | None) -> Floats:
    """Those of a category, ascending; of all together where it is not known: (n,)."""
    if category is not None and category in values:
        return values[category]
    return np.sort(np.concatenate(list(values.values()))) if values else np.zeros(0)


def refuse_not_finite(image: str, *values: ArrayLike | None) -> None:
    """Raises NotFiniteError that names the image where a score or a map (...) has NaN or infinity; None is no value."""
    if not all(value is None or bool(np.isfinite(value).all()) for value in values):
        raise NotFiniteError(f"{image}: {NOT_FINITE}")


def conformal_threshold(held: Floats, rate: float) -> float:
    """The score above which p <= rate, or the highest of all where so few scores (n,), ascending, allow no such p."""
    allowed = max(int(np.floor(rate * (len(held) + 1) * (1 + 1e-12))) - 1, 0)  # held-out scores that may lie above
    return float(held[len(held) - 1 - min(allowed, len(held) - 1)])
