"""Make what an exported file carries to check itself: see `lit_ad.detector.self_check`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.deploy.exported_file import rewrite
from lit_ad.deploy.quantize import network_inputs
from lit_ad.detector.card import Card
from lit_ad.detector.exported import load_exported
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import SelfCheck, compare, enlarge, run_network

COUNT = 3  # images
LARGEST = 384  # pixels of a side: larger inputs are kept smaller, and enlarged to be compared
ROWS = 128  # of a map, at most, and as many columns: every n-th
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "int8": 2e-2}  # relative; of int8 the least, see `commands.export`


def make_check(network: Network, card: Card, images: Sequence[ImageLike], tolerance: float) -> SelfCheck:
    """Judge images by the checkpoint, and return what an exported file is to carry.

    Args:
        network: Of the checkpoint.
        card: Of the exported file, which may be without maps.
        images: Real ones, of any size; of each, the middle tile where there are tiles.
        tolerance: See `SelfCheck`.
    """
    inputs = [tiles[len(tiles) // 2] for tiles in (network_inputs(image, card) for image in images)]
    height, width = inputs[0].shape[1:]
    kept = np.stack([shrink(pixels) for pixels in inputs])
    pixels = np.stack([enlarge(image, (height, width)) for image in kept])
    results = [run_network(network, pixels[i : i + 1], card) for i in range(len(pixels))]
    step = max(1, -(-max(height, width) // ROWS))
    maps = [anomaly_map[0, ::step, ::step] for _, anomaly_map in results if anomaly_map is not None]
    scores = tuple(scores[0] for scores, _ in results)
    carried = np.stack(maps) if maps and not card.without_map else None
    return SelfCheck(kept, (height, width), scores, carried, step, tolerance)


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, H, W) -> the same, with sides of at most `LARGEST`."""
    _, height, width = pixels.shape
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.ascontiguousarray(np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize(size)).transpose(2, 0, 1))


def loosen(file: Path) -> None:
    """Have an int8 file tolerate twice the differences that it has from its checkpoint here; it carries that.

    No general number says how far eight bits may be off.
    """
    loaded = load_exported(file)
    if loaded.check is None:
        return
    check = SelfCheck.from_text(loaded.check, file)
    measured = compare(loaded.network, loaded.card, check).largest
    rewrite(file, file, loaded.card, replace(check, tolerance=max(check.tolerance, 2 * measured)).to_text())
