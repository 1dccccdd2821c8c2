"""Check an exported file where it runs: it carries three images, and the checkpoint's scores and maps of them.

A driver or an accelerator may compute other numbers than the checkpoint did, and still give scores. The images are
network inputs, so that nothing but the runtime is compared. They are kept as PNGs in base64. Of a map, every `step`-th
pixel of every `step`-th row is kept, in 16 bits between the map's lowest and highest value: this rounds by 8e-6 of that
range.
"""

import base64
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.detector.card import Card
from lit_ad.detector.scoring import Network, Output, top_mean
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size
from lit_ad.image.view import Floats

CHECK_KEY = "lit_ad_check"  # the key of the check in a file's metadata, beside the card's
REFUSED = 5.0  # a difference beyond 5 x the tolerance is an error; beyond the tolerance it is a warning
STEPS = 65535  # the highest value of 16 bits


@dataclass(frozen=True)
class SelfCheck:
    """Images, with the scores and maps that the checkpoint computed."""

    images: NDArray[np.uint8]  # (n, 3, h0, w0): network inputs, or smaller images that are enlarged to them
    size: Size  # H, W of the network's input
    scores: tuple[float, ...]  # n
    maps: Floats | None  # (n, h, w): every `step`-th pixel of each map; None: the file gives no maps
    step: int
    tolerance: float  # the relative difference of scores and maps beyond which there is a warning

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Network inputs, (n, 3, H, W)."""
        return np.stack([enlarge(image, self.size) for image in self.images])

    def to_text(self) -> str:
        """Return the check as JSON."""
        images = [_encode_png(Image.fromarray(image.transpose(1, 2, 0))) for image in self.images]
        values: dict[str, Any] = {"images": images, "size": self.size, "scores": self.scores}
        if self.maps is not None:
            values |= {"maps": [_encode_map(anomaly_map) for anomaly_map in self.maps], "step": self.step}
        return json.dumps({**values, "tolerance": self.tolerance})

    @classmethod
    def from_text(cls, text: str, file: Path) -> "SelfCheck":
        """Return the check of `to_text`'s JSON. Raises UserError, which names the file, if it cannot be read."""
        try:
            values = json.loads(text)
            images = np.stack([decode_png(image).transpose(2, 0, 1) for image in values["images"]])
            height, width = map(int, values["size"])
            maps = np.stack([_decode_map(encoded) for encoded in values["maps"]]) if "maps" in values else None
            step, scores = int(values.get("step", 1)), tuple(map(float, values["scores"]))
            return cls(images, (height, width), scores, maps, step, float(values["tolerance"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{file} carries check images that cannot be read: export it anew") from error


class Row(NamedTuple):
    """The numbers of the checkpoint and of a runtime for one image."""

    expected: float  # the checkpoint's score
    score: float  # the runtime's score
    score_difference: float  # relative
    map_difference: float = 0.0  # relative
    expected_pixel: float = 0.0  # the checkpoint's value of the map pixel that differs most
    pixel: float = 0.0  # the runtime's value of that pixel

    @property
    def largest(self) -> float:
        """The larger of the two differences; infinite if one is NaN."""
        differences = (self.score_difference, self.map_difference)
        return max(differences) if np.isfinite(differences).all() else float("inf")


@dataclass(frozen=True)
class Comparison:
    """The comparison of a runtime with the checkpoint, a row for each image."""

    rows: tuple[Row, ...]
    tolerance: float

    @property
    def largest(self) -> float:
        """The largest relative difference; infinite if one is NaN."""
        return max(row.largest for row in self.rows)

    @property
    def agrees(self) -> bool:
        """Whether all differences are within the tolerance."""
        return self.largest <= self.tolerance

    @property
    def refused(self) -> bool:
        """Whether a difference is so large that the detector must not be used."""
        return not self.largest <= REFUSED * self.tolerance

    def describe(self) -> str:
        """Return in words both numbers of the image that differs most."""
        number, row = max(enumerate(self.rows, 1), key=lambda pair: pair[1].largest)
        if row.score_difference < row.largest:
            numbers = f"a pixel of the map of image {number} is {row.pixel:.6g}, and the checkpoint gave "
            numbers += f"{row.expected_pixel:.6g}"
        else:
            numbers = f"the score of image {number} is {row.score:.6g}, and the checkpoint gave {row.expected:.6g}"
        return f"{numbers}, a relative difference of {self.largest:.1e}; the tolerance is {self.tolerance:.0e}"


def run_network(network: Network, pixels: NDArray[np.uint8], card: Card) -> tuple[list[float], Floats | None]:
    """Return the scores, and the maps (n, H, W) or None, of network inputs (n, 3, H, W), which have no padding."""
    output = Output(*network(pixels))
    maps = None if output.anomaly_map is None else output.anomaly_map[:, 0]
    if maps is None or not card.map_scored:
        assert output.score is not None
        return [float(score) for score in output.score], maps
    return [top_mean(anomaly_map, card.top) for anomaly_map in maps], maps


def compare(network: Network, card: Card, check: SelfCheck, batch_size: int = 1) -> Comparison:
    """Run the images of a check, and compare scores and maps with the checkpoint's.

    The difference of a score is relative to the larger of its own absolute value and the mean absolute value of all
    scores. The difference of a map is relative to its largest absolute value.
    """
    rows, mean_size = list[Row](), float(np.mean(np.abs(check.scores)))
    for first in range(0, len(check.pixels), batch_size):
        scores, maps = run_network(network, check.pixels[first : first + batch_size], card)
        for i, score in enumerate(scores, first):
            expected = check.scores[i]
            row = Row(expected, score, abs(score - expected) / max(abs(expected), mean_size, 1e-12))
            if check.maps is not None:
                row = row._replace(**_compare_map(None if maps is None else maps[i - first], check.maps[i], check.step))
            rows.append(row)
    return Comparison(tuple(rows), check.tolerance)


def _compare_map(anomaly_map: Floats | None, expected: Floats, step: int) -> dict[str, float]:
    """Return the fields of a `Row` that compare a map (H, W) with `expected` (h, w), the checkpoint's thinned map."""
    if anomaly_map is None or anomaly_map[::step, ::step].shape != expected.shape:
        return {"map_difference": float("inf"), "expected_pixel": float(expected.max()), "pixel": float("nan")}
    thinned = anomaly_map[::step, ::step]
    differences = np.abs(thinned - expected)
    place = np.unravel_index(int(np.argmax(np.nan_to_num(differences, nan=np.inf))), differences.shape)
    difference = float(differences[place]) / max(float(np.abs(expected).max()), 1e-12)
    return {
        "map_difference": difference,
        "expected_pixel": float(expected[place]),
        "pixel": float(thinned[place]),
    }


def enlarge(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return an image (3, h0, w0) at another size, (3, H, W). Pillow resizes with integers, so every machine gets the
    same pixels."""
    if image.shape[1:] == size:
        return image
    resized = Image.fromarray(image.transpose(1, 2, 0)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _encode_png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def decode_png(text: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
        return np.array(image)


def _encode_map(anomaly_map: Floats) -> dict[str, Any]:
    """Return a map (h, w) as a PNG of 16 bits, with the values of 0 ("low") and 65535 ("high")."""
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    levels = np.rint((anomaly_map.astype(np.float64) - low) * (STEPS / max(high - low, 1e-300)))
    return {"low": low, "high": high, "png": _encode_png(Image.fromarray(levels.astype(np.uint16)))}


def _decode_map(values: dict[str, Any]) -> Floats:
    low, high = float(values["low"]), float(values["high"])
    levels = decode_png(values["png"]).astype(np.float64)
    return (low + levels * ((high - low) / STEPS)).astype(np.float32)
