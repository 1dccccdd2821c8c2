"""One picture per image: what the network saw, the truth, and where it disagrees with its teacher."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_ad.batch import Batch
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation.results import picture_names
from lit_ad.evaluation.sinks.predictions import PICTURE, Predictions
from lit_ad.files import Writers, atomic_write, run_directory
from lit_ad.image.pixels import Pixels, Size
from lit_ad.image.roi import Roi
from lit_ad.image.view import Box, bilinear, uncropped, visible

TRUTH, FOUND = (0, 255, 0), (0, 190, 255)  # colours of outlines; the heat's own run from black by purple to yellow
WIDEST = 4  # panels are at most as many times as wide as `height`
THINNEST = 10  # no side is less than this part of `height`, whatever the image's proportions
GAP, TITLE = 4, 22
JPEG = {"quality": 95, "subsampling": 0}  # a tenth of a PNG's time; with all of its colours, thin outlines stay sharp
FONT = ImageFont.load_default(13)
SMALL = ImageFont.load_default(11)


class Heatmaps(L.Callback):
    """Write RUN/heatmaps/CATEGORY/FOLDER/NAME.jpg for every tested image, for predicted ones below RUN/predictions.

    The colours span the same range in every picture of a run, fixed by nominal held-out images: the middle of the
    scale is the threshold of anomalous pixels. Green outlines the true defect, blue the pixels above the threshold. Of
    images more than twice as large as a panel, a third panel shows the hottest place pixel by pixel.

    Args:
        enabled: Write pictures at all.
        height: Of the panels, in pixels.
    """

    def __init__(self, enabled: bool = True, height: int = 320) -> None:
        self.enabled, self.height = enabled, height
        self.writers = Writers()

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer) / "heatmaps"
        loader: Any = trainer.test_dataloaders
        self.names = picture_names(loader.dataset.samples)

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        predictions = [one.directory for one in trainer.callbacks if isinstance(one, Predictions)]  # type: ignore[attr-defined]
        self.directory = (predictions[0] if predictions else run_directory(trainer) / "predictions") / "heatmaps"
        loader: Any = trainer.predict_dataloaders
        self.names = picture_names(loader.dataset.samples)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not self.enabled:
            return
        for i, judgement in enumerate(outputs):
            if not batch.samples[i].error:
                self.writers.submit(self._write, pl_module.decision, judgement, batch, i, pl_module.view.region)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.writers.finish()

    on_predict_epoch_end = on_test_epoch_end

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.writers.give_up()

    def _write(self, decision: Decision | None, judgement: Judgement, batch: Batch, i: int, roi: Roi | None) -> None:
        sample, score = batch.samples[i], judgement.score
        verdict = "" if decision is None else decision.verdict(score, sample.category)
        truth = {0: "good", 1: sample.defect}.get(sample.label, "")
        title = f"{short(sample.image.name)}   score {score:.4g}   {verdict}"
        title += f"   truth: {truth}" if truth else ""
        heat = None if judgement.seen is None else judgement.original_map(batch.sizes[i], roi)
        span = None if decision is None else decision.colour_range(sample.category)
        threshold = None if decision is None else decision.pixel_threshold(sample.category)
        mask = None if batch.masks is None else batch.masks[i]
        if roi is not None:  # the picture is of what was looked at
            heat, mask = (None if of is None else roi.boxed(of) for of in (heat, mask))
        picture = draw(content(batch, i), heat, mask, span, threshold, title, self.height)
        with atomic_write(self.picture(str(sample.image))) as temporary:
            picture.save(temporary, format="JPEG", **JPEG)

    def picture(self, image: str) -> Path:
        """Where the picture of an image is."""
        return self.directory / f"{self.names[image]}{PICTURE}"


def short(name: str) -> str:
    """A file's name, without its middle if it is long."""
    return name if len(name) <= 48 else f"{name[:30]}...{name[-15:]}"


def content(batch: Batch, i: int) -> Pixels:
    """Image i as the network saw it, without padding, and black where the view crops: (h, w, 3)."""
    assert batch.pixels is not None
    top, left, bottom, right = visible(batch.boxes[i], batch.input_size(i))
    seen = batch.pixels[i, :, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
    return uncropped(seen, batch.boxes[i], 0)


def draw(
    image: Pixels,
    heat: NDArray[np.float32] | None,
    mask: Tensor | None,
    span: tuple[float, float] | None,
    threshold: float | None,
    title: str,
    height: int,
) -> Image.Image:
    """Panels side by side under a title: the image, the heatmap over the grey image with a bar of its colours, and of
    large images the hottest place. The truth and the pixels above the threshold are outlined on each.

    image (h, w, 3); heat and mask (H0, W0), whose proportions the panels take; span (low, high) of the colours, or
    those of this heat.
    """
    whole = heat.shape if heat is not None else tuple(mask.shape) if mask is not None else image.shape[:2]
    size = panel_size((whole[0], whole[1]), height)
    marks: list[Mark] = []
    if heat is not None and threshold is not None:
        marks.append(Mark("above the threshold", heat > threshold, FOUND))
    if mask is not None:
        marks.append(Mark("truth", mask.numpy(), TRUTH))  # last, so that it is seen where both are the same
    seen = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR if image.shape[0] < size[0] else cv2.INTER_AREA)
    panels: list[Any] = [seen]
    if heat is not None:
        low, high = span or (float(heat.min()), float(heat.max()))
        scaled = ((heat_panel(heat, size) - low) / max(high - low, 1e-30)).clip(0, 1)
        grey = cv2.cvtColor(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        panels.append(cv2.addWeighted(colours(scaled), 0.65, grey, 0.35, 0))
    outlines = contours(marks, size)
    panels = [outlined(panel, outlines) for panel in panels]
    if heat is not None:
        window = hottest(heat, size)
        if window is not None:
            panels = [framed(panel, window, heat.shape) for panel in panels]
        panels.append(colour_bar(size[0], low, high, threshold))
        if window is not None:
            nearer = contours([mark.within(window) for mark in marks], size)
            panels.append(outlined(magnified(image, window, heat.shape, size), nearer))
    gap = np.full((size[0], GAP, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
    return titled(row, title, [mark for mark in marks if mark.mask.any()])


class Mark(NamedTuple):
    """What is outlined."""

    name: str
    mask: NDArray[np.bool_]  # (H0, W0)
    colour: tuple[int, int, int]

    def within(self, window: Box) -> "Mark":
        """The part in a window of it."""
        top, left, bottom, right = window
        return self._replace(mask=self.mask[top:bottom, left:right])


def panel_size(whole: Size, height: int) -> Size:
    """Height and width of the panels of an image of size `whole`: its proportions, unless they are extreme."""
    scale, least = min(height / whole[0], WIDEST * height / whole[1]), max(1, height // THINNEST)
    return max(least, round(scale * whole[0])), max(least, round(scale * whole[1]))


def contours(marks: list[Mark], size: Size) -> list[tuple[Any, tuple[int, int, int]]]:
    """The outlines of masks (H0, W0) in a panel of `size`, and their colours; of a region a pixel thin, itself."""
    small = [highest(mark.mask, size).astype(np.uint8) for mark in marks]
    found = [cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0] for mask in small]
    return [(outline, mark.colour) for outline, mark in zip(found, marks, strict=True)]


def outlined(panel: Pixels, outlines: list[tuple[Any, tuple[int, int, int]]]) -> Pixels:
    """A panel (h, w, 3) with `contours` on it."""
    panel = panel.copy()
    for outline, colour in outlines:
        cv2.drawContours(panel, outline, -1, colour, 1)
    return panel


def highest(values: NDArray[Any], size: Size) -> NDArray[Any]:
    """The maximum of the values (H, W) that fall into each cell of `size`, or the value at the cell's centre where
    cells are smaller: nothing vanishes, however thin it is."""
    for axis, length in enumerate(size):
        have = values.shape[axis]
        if length < have:
            edges = np.arange(length + 1) * have // length
            cells = values.take(edges[:-1], axis)
            # Whole rows at a time, a few of them: maximum.reduceat takes ten times as long.
            for step in range(1, int(np.diff(edges).max())):
                cells = np.maximum(cells, values.take(np.minimum(edges[:-1] + step, edges[1:] - 1), axis))
            values = cells
        elif length > have:
            values = np.take(values, (2 * np.arange(length) + 1) * have // (2 * length), axis)
    return values


def heat_panel(heat: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """A map (H0, W0) at a panel's size: the hottest of the pixels that share one, or bilinear between them."""
    return bilinear(highest(heat, (min(size[0], heat.shape[0]), min(size[1], heat.shape[1]))), size)


def colours(scaled: NDArray[np.float32]) -> Pixels:
    """Of a heat (H, W) in [0, 1]: (H, W, 3)."""
    bgr = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1])


def hottest(heat: NDArray[np.float32], size: Size) -> Box | None:
    """The window of `size` around the map's maximum, in pixels of the map. None if the map is less than twice as
    large."""
    if heat.shape[0] <= 2 * size[0] and heat.shape[1] <= 2 * size[1]:
        return None
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    sides = [min(side, have) for side, have in zip(size, heat.shape, strict=True)]
    starts = [
        min(max(int(at) - side // 2, 0), have - side) for at, side, have in zip(peak, sides, heat.shape, strict=True)
    ]
    return starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1]


def framed(panel: Pixels, window: Box, whole: Size) -> Pixels:
    """A panel (h, w, 3) with a white frame where a window of the whole lies."""
    scale = (panel.shape[0] / whole[0], panel.shape[1] / whole[1])
    top, left, bottom, right = (int(edge * scale[i % 2]) for i, edge in enumerate(window))
    panel = panel.copy()
    cv2.rectangle(panel, (left, top), (right - 1, bottom - 1), (255, 255, 255), 1)
    return panel


def magnified(image: Pixels, window: Box, whole: Size, size: Size) -> Pixels:
    """A window of the whole (H0, W0), of which the image (h, w, 3) is the resized picture, at `size`."""
    steps = [(window[axis + 2] - window[axis]) * image.shape[axis] / (whole[axis] * size[axis]) for axis in (0, 1)]
    # The centre of the panel's first pixel lies half a step beyond the window's edge, in pixels of the image.
    starts = [window[axis] * image.shape[axis] / whole[axis] + steps[axis] / 2 - 0.5 for axis in (0, 1)]
    matrix = np.array([[steps[1], 0, starts[1]], [0, steps[0], starts[0]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = np.ascontiguousarray(image)
    return np.asarray(cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def colour_bar(height: int, low: float, high: float, threshold: float | None) -> Pixels:
    """The colours from `low` at the bottom to `high` at the top, and where the threshold is: (height, w, 3)."""
    share = 0.0 if threshold is None else (threshold - low) / max(high - low, 1e-30)
    at = round((height - 1) * (1 - min(max(share, 0.0), 1.0)))
    labels = [] if height < 40 else [(f"{high:.3g}", 0), (f"{low:.3g}", height - 1)]
    if threshold is not None:
        labels.append((f"{threshold:.3g}", at))
    wide = max([0, *(int(SMALL.getlength(text)) for text, _ in labels)])
    bar = Image.new("RGB", (14 + 4 + wide, height), "white")
    column = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(14, axis=1)
    bar.paste(Image.fromarray(colours(column)))
    pen = ImageDraw.Draw(bar)
    if threshold is not None:
        pen.line([(0, at), (16, at)], fill=FOUND, width=2)
    for text, place in labels:
        pen.text((18, min(max(place - 6, 0), max(height - 12, 0))), text, fill="black", font=SMALL)
    return np.asarray(bar)


def titled(row: Pixels, title: str, marks: list[Mark]) -> Image.Image:
    """The panels (h, w, 3) under a title, and after it what the outlines' colours mean."""
    begin = int(FONT.getlength(title)) + 24
    width = max([row.shape[1], begin - 16, *([begin + sum(legend_width(mark) for mark in marks)] if marks else [])])
    picture = Image.new("RGB", (width, TITLE + row.shape[0]), "white")
    picture.paste(Image.fromarray(row), (0, TITLE))
    pen = ImageDraw.Draw(picture)
    pen.text((4, 3), title, fill="black", font=FONT)
    for mark in marks:
        pen.rectangle([begin, 6, begin + 9, 15], outline="black", fill=mark.colour)
        pen.text((begin + 14, 3), mark.name, fill="black", font=FONT)
        begin += legend_width(mark)
    return picture


def legend_width(mark: Mark) -> int:
    return int(FONT.getlength(mark.name)) + 28
