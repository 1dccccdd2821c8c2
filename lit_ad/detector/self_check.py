"""What an exported file carries to check itself where it runs: three images, and what the checkpoint said of them.

Drivers and accelerators may compute something else than the checkpoint did, and still give scores. The images are as
the network sees them, so that nothing but the runtime is compared. Each is a PNG in base64. A map is every `step`-th
pixel of it in 16 bits between its lowest and its highest value, which rounds by 8e-6 of that range.
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

CHECK_KEY = "lit_ad_check"  # under which a file keeps it, beside its card
REFUSED = 5.0  # times the tolerance: beyond, a detector is refused; between, there is a warning
STEPS = 65535  # of 16 bits


@dataclass(frozen=True)
class SelfCheck:
    """Images, and what the checkpoint said of them."""

    images: NDArray[np.uint8]  # (n, 3, h0, w0): the network's input, or smaller
    size: Size  # H, W of the network's input
    scores: tuple[float, ...]
    maps: Floats | None  # (n, h, w): every `step`-th pixel of each map; None of files without maps
    step: int
    tolerance: float  # relative difference of scores and maps beyond which there is a warning

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Network inputs, (n, 3, H, W)."""
        return np.stack([enlarge(image, self.size) for image in self.images])

    def to_text(self) -> str:
        """As JSON."""
        images = [_encode_png(Image.fromarray(image.transpose(1, 2, 0))) for image in self.images]
        values: dict[str, Any] = {"images": images, "size": self.size, "scores": self.scores}
        if self.maps is not None:
            values |= {"maps": [_encode_map(anomaly_map) for anomaly_map in self.maps], "step": self.step}
        return json.dumps({**values, "tolerance": self.tolerance})

    @classmethod
    def from_text(cls, text: str, file: Path) -> "SelfCheck":
        """The inverse of `to_text`. Raises UserError that names the file if it is something else."""
        try:
            values = json.loads(text)
            images = np.stack([decode_png(image).transpose(2, 0, 1) for image in values["images"]])
            height, width = map(int, values["size"])
            maps = np.stack([_decode_map(each) for each in values["maps"]]) if "maps" in values else None
            step, scores = int(values.get("step", 1)), tuple(map(float, values["scores"]))
            return cls(images, (height, width), scores, maps, step, float(values["tolerance"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{file} carries images to check itself by that cannot be read: export it anew") from error


class Row(NamedTuple):
    """One image: what the checkpoint gave and what a runtime gives."""

    expected: float  # score
    score: float
    score_difference: float  # relative
    map_difference: float = 0.0  # relative
    expected_pixel: float = 0.0  # of the map, where it differs most
    pixel: float = 0.0

    @property
    def largest(self) -> float:
        """The larger one of its differences; infinite if there is a NaN."""
        differences = (self.score_difference, self.map_difference)
        return max(differences) if np.isfinite(differences).all() else float("inf")


@dataclass(frozen=True)
class Comparison:
    """A runtime beside the checkpoint."""

    rows: tuple[Row, ...]
    tolerance: float

    @property
    def largest(self) -> float:
        """The largest relative difference; infinite if there is a NaN."""
        return max(row.largest for row in self.rows)

    @property
    def agrees(self) -> bool:
        """Whether all differences are within the tolerance."""
        return self.largest <= self.tolerance

    @property
    def refused(self) -> bool:
        """Whether a difference is beyond what a warning is enough for."""
        return not self.largest <= REFUSED * self.tolerance

    def describe(self) -> str:
        """Both numbers, of the image that differs most."""
        number, row = max(enumerate(self.rows, 1), key=lambda pair: pair[1].largest)
        if row.score_difference < row.largest:
            told = f"a pixel of the map of image {number} is {row.pixel:.6g}, and the checkpoint gave "
            told += f"{row.expected_pixel:.6g}"
        else:
            told = f"the score of image {number} is {row.score:.6g}, and the checkpoint gave {row.expected:.6g}"
        return f"{told}, a relative difference of {self.largest:.1e} where {self.tolerance:.0e} is the tolerance"


def run_network(network: Network, pixels: NDArray[np.uint8], card: Card) -> tuple[list[float], Floats | None]:
    """Scores and maps (n, H, W) of network inputs (n, 3, H, W): of all their pixels, since these are all content."""
    output = Output(*network(pixels))
    maps = None if output.anomaly_map is None else output.anomaly_map[:, 0]
    if maps is None or not card.map_scored:
        assert output.score is not None
        return [float(score) for score in output.score], maps
    return [top_mean(anomaly_map, card.top) for anomaly_map in maps], maps


def compare(network: Network, card: Card, check: SelfCheck, batch_size: int = 1) -> Comparison:
    """Run the images of a file and compare.

    The difference of a score is relative to its size, or to the mean size of all if that is larger; that of a map to
    the map's largest value.
    """
    rows, usual = list[Row](), float(np.mean(np.abs(check.scores)))
    for first in range(0, len(check.pixels), batch_size):
        scores, maps = run_network(network, check.pixels[first : first + batch_size], card)
        for i, score in enumerate(scores, first):
            expected = check.scores[i]
            row = Row(expected, score, abs(score - expected) / max(abs(expected), usual, 1e-12))
            if check.maps is not None:
                row = row._replace(**_compare_map(None if maps is None else maps[i - first], check.maps[i], check.step))
            rows.append(row)
    return Comparison(tuple(rows), check.tolerance)


def _compare_map(anomaly_map: Floats | None, expected: Floats, step: int) -> dict[str, float]:
    """The fields of a `Row` that are a map's. (H, W), and (h, w): every `step`-th pixel."""
    if anomaly_map is None or anomaly_map[::step, ::step].shape != expected.shape:
        return {"map_difference": float("inf"), "expected_pixel": float(expected.max()), "pixel": float("nan")}
    thinned = anomaly_map[::step, ::step]
    apart = np.abs(thinned - expected)
    place = np.unravel_index(int(np.argmax(np.nan_to_num(apart, nan=np.inf))), apart.shape)
    difference = float(apart[place]) / max(float(np.abs(expected).max()), 1e-12)
    return {
        "map_difference": difference,
        "expected_pixel": float(expected[place]),
        "pixel": float(thinned[place]),
    }


def enlarge(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """(3, h0, w0) -> (3, H, W), by Pillow, whose resize computes with integers: every machine gets the same."""
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
    """(h, w) as a PNG of 16 bits, and the values that 0 and 65535 stand for."""
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    levels = np.rint((anomaly_map.astype(np.float64) - low) * (STEPS / max(high - low, 1e-300)))
    return {"low": low, "high": high, "png": _encode_png(Image.fromarray(levels.astype(np.uint16)))}


def _decode_map(values: dict[str, Any]) -> Floats:
    low, high = float(values["low"]), float(values["high"])
    levels = decode_png(values["png"]).astype(np.float64)
    return (low + levels * ((high - low) / STEPS)).astype(np.float32)
