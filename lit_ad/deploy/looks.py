"""The look of an image in five numbers (brightness, contrast, sharpness, colour), and how looks change. NumPy only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_ad.image.pixels import Pixels

LOOKS = ("brightness", "contrast", "sharpness", "red", "blue")
_ROWS, _COLUMNS = 8, 256  # measured pixels: so few that an image of any size takes less than 0.1 ms


def measure_look(pixels: Pixels) -> str:
    """Measure the five numbers of LOOKS, (H, W, 3) -> a JSON list, in grey levels.

    Only 8 rows are read, evenly spread over the height, and of each row up to 256 pixels in the middle. Brightness is
    their mean. Contrast is the standard deviation of green. Sharpness is the mean step of green from a pixel to the
    next. Red and blue are the means of red and blue minus the brightness.
    """
    height, width = pixels.shape[:2]
    left = max(0, (width - _COLUMNS) // 2)
    part = np.ascontiguousarray(pixels[:: -(-height // _ROWS), left : left + _COLUMNS])
    red, green, blue = part.reshape(-1, 3).mean(0, dtype=np.float32).tolist()
    greens = part[..., 1].astype(np.int32)
    variance = float(np.vdot(greens, greens)) / greens.size - green**2
    steps = greens[:, 1:] - greens[:, :-1]
    sharpness = float(np.abs(steps).sum()) / max(steps.size, 1)
    mean = (red + green + blue) / 3
    return f"[{mean:.3f}, {max(variance, 0) ** 0.5:.3f}, {sharpness:.3f}, {red - mean:.3f}, {blue - mean:.3f}]"


@dataclass(frozen=True)
class Move:
    """The change of one number of LOOKS between two groups of images."""

    name: str  # one of LOOKS
    before: float  # mean over the images before, in grey levels
    after: float  # mean over the images after, in grey levels
    deviations: float  # the change, in standard deviations of the images before


def compare_looks(before: Sequence[str], after: Sequence[str]) -> list[Move]:
    """Compare the looks of images before and after a change.

    Args:
        before: Results of `measure_look`, one for each image before.
        after: The same for the images after.

    Returns:
        One `Move` for each of LOOKS, the largest first. Empty if `before` has fewer than two images, or `after` none.
    """
    if len(before) < 2 or not after:
        return []
    old, new = (np.array([json.loads(text) for text in texts]) for texts in (before, after))
    old_means, new_means = old.mean(0), new.mean(0)
    spread = np.maximum(old.std(0, ddof=1), 0.05)  # at least 0.05 grey levels, so that equal images divide by no zero
    moves = [
        Move(name, float(old_mean), float(new_mean), float(change))
        for name, old_mean, new_mean, change in zip(
            LOOKS, old_means, new_means, (new_means - old_means) / spread, strict=True
        )
    ]
    return sorted(moves, key=lambda move: -abs(move.deviations))
