"""How images look on the whole: brightness, contrast, sharpness and colour, and what has moved most. NumPy only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_ad.image.pixels import Pixels

LOOKS = ("brightness", "contrast", "sharpness", "red", "blue")
ROWS, COLUMNS = 8, 256  # that are looked at, so that it takes less than 0.1 ms of an image of any size


def look(pixels: Pixels) -> str:
    """The numbers of LOOKS in grey levels, (H, W, 3) -> JSON.

    Of 8 rows over the image's height, up to 256 pixels in the middle of each: the mean; the standard deviation and the
    mean step from a pixel to the next, both of green; and how far the means of red and of blue lie above that of all.
    """
    height, width = pixels.shape[:2]
    left = max(0, (width - COLUMNS) // 2)
    part = np.ascontiguousarray(pixels[:: -(-height // ROWS), left : left + COLUMNS])
    red, green, blue = part.reshape(-1, 3).mean(0, dtype=np.float32).tolist()
    greens = part[..., 1].astype(np.int32)
    variance = float(np.vdot(greens, greens)) / greens.size - green**2
    steps = greens[:, 1:] - greens[:, :-1]
    sharpness = float(np.abs(steps).sum()) / max(steps.size, 1)
    mean = (red + green + blue) / 3
    return f"[{mean:.3f}, {max(variance, 0) ** 0.5:.3f}, {sharpness:.3f}, {red - mean:.3f}, {blue - mean:.3f}]"


@dataclass(frozen=True)
class Move:
    """How a number of LOOKS has moved."""

    name: str
    before: float
    after: float
    deviations: float  # by how many standard deviations of the images before


def moves(before: Sequence[str], after: Sequence[str]) -> list[Move]:
    """How the looks of images have moved from some to others, what has moved most first. Of fewer than two: none."""
    if len(before) < 2 or not after:
        return []
    old, new = (np.array([json.loads(text) for text in texts]) for texts in (before, after))
    means, deviations = old.mean(0), old.std(0, ddof=1)
    moved = (new.mean(0) - means) / np.maximum(deviations, 0.05)  # no fewer than a twentieth of a grey level
    found_moves = [
        Move(name, float(mean), float(mean_after), float(by))
        for name, mean, mean_after, by in zip(LOOKS, means, new.mean(0), moved, strict=True)
    ]
    return sorted(found_moves, key=lambda move: -abs(move.deviations))
