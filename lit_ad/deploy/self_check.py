"""Make the self-check of an exported file: see `lit_ad.detector.self_check`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.deploy.exported_file import rewrite
from lit_ad.deploy.quantize import make_network_inputs
from lit_ad.detector.card import Card
from lit_ad.detector.exported import load_exported
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.scoring import Network
from lit_ad.detector.self_check import SelfCheck, compare, enlarge, run_network

COUNT = 3  # images that a file carries
LARGEST = 384  # largest side of a carried image in pixels; larger inputs are carried smaller, and enlarged to compare
_MAX_ROWS = 128  # most rows and columns of a carried map; larger maps keep every n-th
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "int8": 2e-2}  # relative difference; `loosen` may raise it for int8


def make_check(network: Network, card: Card, images: Sequence[ImageLike], tolerance: float) -> SelfCheck:
    """Judge images by the checkpoint, and return them with the results, for an exported file to carry.

    Args:
        network: The network of the checkpoint.
        card: The card of the exported file. If its `without_map` is set, no maps are carried.
        images: Real images of any size. If the view has tiles, only the middle tile of each image is used.
        tolerance: The largest relative difference without a warning: see `SelfCheck`.
    """
    inputs = [tiles[len(tiles) // 2] for tiles in (make_network_inputs(image, card) for image in images)]
    height, width = inputs[0].shape[1:]
    small = np.stack([shrink(pixels) for pixels in inputs])
    pixels = np.stack([enlarge(image, (height, width)) for image in small])
    results = [run_network(network, pixels[i : i + 1], card) for i in range(len(pixels))]
    step = max(1, -(-max(height, width) // _MAX_ROWS))
    maps = [anomaly_map[0, ::step, ::step] for _, anomaly_map in results if anomaly_map is not None]
    scores = tuple(scores[0] for scores, _ in results)
    carried = np.stack(maps) if maps and not card.without_map else None
    return SelfCheck(small, (height, width), scores, carried, step, tolerance)


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink an image (3, H, W) so that no side is longer than `LARGEST`. Smaller images are returned as they are."""
    _, height, width = pixels.shape
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.ascontiguousarray(np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize(size)).transpose(2, 0, 1))


def loosen(file: Path) -> None:
    """Raise the tolerance that an int8 file carries to twice its differences from the checkpoint on this machine.

    The error of int8 depends on the network, so no fixed tolerance fits all. Files without a self-check stay unchanged.
    """
    loaded = load_exported(file)
    if loaded.check is None:
        return
    check = SelfCheck.from_text(loaded.check, file)
    measured = compare(loaded.network, loaded.card, check).largest
    rewrite(file, file, loaded.card, replace(check, tolerance=max(check.tolerance, 2 * measured)).to_text())
