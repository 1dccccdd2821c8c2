"""A trained detector for programs: an image in, a verdict out. Nothing of training is imported.

With an exported file it needs NumPy, Pillow and that file's runtime; with a checkpoint also torch and lit_ad's methods.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.decision import Decision, Region, regions
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.pixels import Pixels, to_rgb
from lit_ad.view import Box, Floats, View, bilinear, original_map

ImageLike = str | Path | Image.Image | NDArray[Any]
EXPORTED = (".onnx", ".xml", ".pt2")  # of ONNX Runtime, OpenVINO and torch.export
Run = Callable[[NDArray[np.uint8]], tuple[Floats | None, Floats]]
"""uint8 pixels (n, 3, H, W) of the network's size -> maps (n, 1, h, w), or none, and scores (n,)."""


@dataclass(frozen=True)
class Card:
    """What a detector's file says of it beside the network."""

    method: str
    view: View
    decision: Decision | None
    top: float = 0.0  # the fraction of a map's pixels, the highest, whose mean is the score; 0: the maximum
    map_scored: bool = True  # whether the score is that of the map
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        decision = None if self.decision is None else self.decision.to_dict()
        return {**vars(self), "view": self.view.to_dict(), "decision": decision}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Card":
        """The inverse of `to_dict`."""
        decision = None if values["decision"] is None else Decision.from_dict(values["decision"])
        return cls(**{**values, "view": View.from_dict(values["view"]), "decision": decision})


@dataclass(frozen=True)
class Detection:
    """What a detector says of one image."""

    image: Pixels  # (H, W, 3) uint8, as it was judged: upright, RGB
    score: float  # raw; higher is more anomalous
    p_value: float | None  # how probable a score this high is of a nominal image; None without held-out images
    anomalous: bool | None  # the verdict at the decision's false-alarm rate
    anomaly_map: Floats | None  # (H, W) raw; None of image-level methods
    mask: NDArray[np.bool_] | None  # (H, W): anomalous pixels
    regions: list[Region]  # connected anomalous pixels
    colour_range: tuple[float, float] | None = None  # of heatmaps: its middle is the pixel threshold

    def plot(self) -> Image.Image:
        """The image, and beside it the map over the grey image, anomalous pixels outlined."""
        panels = [self.image]
        if self.anomaly_map is not None:
            low, high = self.colour_range or (float(self.anomaly_map.min()), float(self.anomaly_map.max()))
            heat = np.clip((self.anomaly_map - low) / max(high - low, 1e-30), 0, 1)
            grey = self.image.mean(axis=2, keepdims=True)
            over = 0.35 * grey + 0.65 * heat_colours(heat)
            if self.mask is not None:
                over[outline(self.mask)] = (0, 255, 0)
            panels.append(over.astype(np.uint8))
        gap = np.full((self.image.shape[0], 4, 3), 255, np.uint8)
        return Image.fromarray(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))

    def save(self, path: str | Path) -> None:
        """Write `plot()` to a file of that suffix. Raises UserError if it cannot be written."""
        path = Path(path)
        if path.suffix.lower() not in Image.registered_extensions():
            raise UserError(f"{path} has no suffix of an image: give .png or .jpg")
        with atomic_write(path) as temporary:
            self.plot().save(temporary, format=Image.registered_extensions()[path.suffix.lower()])


class Detector:
    """Judges images as training's own evaluation does.

    Args:
        run: The network.
        card: What is known of it.

    Example:
        detector = Detector.load("runs/stfpm/20260101-120000")
        verdict = detector("part.png")
        print(verdict.anomalous, verdict.p_value, verdict.regions)
    """

    def __init__(self, run: Run, card: Card) -> None:
        self.run, self.card = run, card

    @classmethod
    def load(cls, path: str | Path, weights: str | Path | None = None, device: str = "cpu") -> "Detector":
        """The detector in a run's directory, in a checkpoint, or in an exported file.

        Args:
            path: RUN, whose best checkpoint is taken, or a file.
            weights: The teacher's, if a checkpoint does not find them.
            device: Of torch.

        Raises:
            UserError: There is no such file, or what it needs is not there.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            found = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
            files = [file for file in found if file.is_file()]
            if not files:
                raise UserError(f"{path} is no run directory: it has neither {' nor '.join(map(str, found))}")
            path = files[0]
        if not path.is_file():
            raise UserError(f"there is no detector {path}: give a run's directory or a checkpoint")
        if path.suffix == ".ckpt":
            from lit_ad.deploy.checkpoint import load_checkpoint

            return cls(*load_checkpoint(path, weights, device))
        if path.suffix not in EXPORTED:
            raise UserError(f"{path} is no detector: expected a checkpoint (.ckpt) or {', '.join(EXPORTED)}")
        from lit_ad.deploy.runtimes import load_exported

        return cls(*load_exported(path, device))

    @overload
    def __call__(self, images: ImageLike, category: str | None = None) -> Detection: ...

    @overload
    def __call__(self, images: list[ImageLike], category: str | None = None) -> list[Detection]: ...

    @overload
    def __call__(self, images: Iterator[ImageLike], category: str | None = None) -> Iterator[Detection]: ...

    def __call__(self, images: Any, category: str | None = None) -> Any:
        """One image -> its Detection; a list -> a list; an iterator -> an iterator, as the images come.

        Args:
            images: Paths, Pillow images or arrays; see `pixels.to_rgb`.
            category: Of a model for many products: whose thresholds count. None, or an unknown one: those of all
                together.

        Raises:
            UserError: An image that cannot be read; it is named.
        """
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            return next(self.stream([images], category))  # type: ignore[list-item]
        stream = self.stream(images, category)
        return list(stream) if isinstance(images, list | tuple) else stream

    def stream(
        self, images: Iterable[ImageLike], category: str | None = None, batch_size: int = 1
    ) -> Iterator[Detection]:
        """The same one after the other, `batch_size` at a time where their inputs have one size."""
        waiting = iter(images)
        while group := [to_rgb(image) for image in islice(waiting, batch_size)]:
            seen = [self.card.view(image) for image in group]
            if self.card.view.tile is not None or len({pixels.shape for pixels, _ in seen}) > 1:
                predictions = [self._predict(pixels[None], [box]) for pixels, box in seen]
            else:
                predictions = [self._predict(np.stack([pixels for pixels, _ in seen]), [box for _, box in seen])]
            maps = [one for found, _ in predictions for one in (found if found is not None else [])]
            scores = [float(score) for _, found in predictions for score in found]
            for i, (image, (pixels, box)) in enumerate(zip(group, seen, strict=True)):
                whole = None
                if maps:
                    canvas, size = (pixels.shape[0], pixels.shape[1]), (image.shape[0], image.shape[1])
                    whole = original_map(maps[i][0], canvas, box, size)
                yield self._judged(image, scores[i], whole, category)

    def _predict(self, pixels: Pixels, boxes: list[Box]) -> tuple[Floats | None, Floats]:
        """uint8 (n, H, W, 3) -> maps (n, 1, h, w) of the canvas, and scores (n,) of the content."""
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        canvas = (pixels.shape[1], pixels.shape[2])
        if self.card.view.tile is not None:
            return self._predict_tiles(channels_first[0], boxes[0])
        maps, scores = self.run(channels_first)
        if maps is not None and self.card.map_scored and any(box != (0, 0, *canvas) for box in boxes):
            contents = [crop(found[0], canvas, box) for found, box in zip(maps, boxes, strict=True)]
            scores = np.array([highest(content, self.card.top) for content in contents], np.float32)
        return maps, scores

    def _predict_tiles(self, image: NDArray[np.uint8], box: Box) -> tuple[Floats | None, Floats]:
        """uint8 (3, H, W) -> map (1, 1, H, W), or none, and score (1,)."""
        top, left, bottom, right = box
        grid = self.card.view.grid((bottom - top, right - left))
        assert grid is not None
        side, worst = (grid.tile, grid.tile), -np.inf
        maps: list[Floats] = []
        for tiles in grid.batches(image[:, top:bottom, left:right], self.card.view.tile_batch):
            found, scores = self.run(tiles)
            worst = max(worst, float(scores.max()))
            if found is not None:
                maps.append(np.stack([bilinear(one[0], side)[None] for one in found]))
        if not maps:
            return None, np.array([worst], np.float32)
        stitched = grid.stitch(iter(maps))
        score = highest(stitched[0, 0], self.card.top) if self.card.map_scored else worst
        whole = np.zeros((1, 1, *image.shape[1:]), np.float32)
        whole[:, :, top:bottom, left:right] = stitched
        return whole, np.array([score], np.float32)

    def _judged(self, image: Pixels, score: float, anomaly_map: Floats | None, category: str | None) -> Detection:
        decision = self.card.decision
        if decision is None:
            return Detection(image, score, None, None, anomaly_map, None, [])
        mask = None
        if anomaly_map is not None and decision.pixel_threshold(category) is not None:
            mask = decision.mask(anomaly_map, category)
        found = regions(mask, anomaly_map) if mask is not None and anomaly_map is not None else []
        judged = (float(decision.p_value(score, category)), decision.anomalous(score, category))
        return Detection(image, score, *judged, anomaly_map, mask, found, decision.colour_range(category))


def crop(anomaly_map: Floats, canvas: tuple[int, int], box: Box) -> Floats:
    """The content of a padded image's map, (h, w) -> (h', w'), cut out at the canvas's resolution."""
    if box == (0, 0, *canvas):
        return anomaly_map
    top, left, bottom, right = box
    return bilinear(anomaly_map, canvas)[top:bottom, left:right]


def highest(anomaly_map: Floats, top: float) -> float:
    """The mean of the highest `top` of a map's pixels, one at least, as `Method.score`."""
    values = anomaly_map.ravel()
    count = int(top * len(values))
    return float(values.max() if count < 2 else np.partition(values, -count)[-count:].mean(dtype=np.float64))


def heat_colours(heat: Floats) -> NDArray[np.float64]:
    """Black, purple, orange, yellow: (H, W) in [0, 1] -> (H, W, 3) in [0, 255], matplotlib's inferno at nine points."""
    stops = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(heat, stops, INFERNO[:, channel]) for channel in range(3)], axis=2)


INFERNO = np.array(
    [
        *((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85)),
        *((227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ],
    np.float64,
)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask (H, W) with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
