"""Pictures of what a detector says: colours, outlines, panels. The only painter of the house; NumPy and Pillow only."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_ad.image.pixels import Pixels, Size
from lit_ad.image.view import Box, bilinear

Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

TRUTH, FOUND = (0, 255, 0), (0, 190, 255)  # colours of outlines; the heat's own run from black by purple to yellow
_INFERNO = bytes.fromhex(  # matplotlib's colours at 33 points: black, purple, orange, yellow
    "0000040403120b0724150b37210c4a2e0a5a3c09654a0c6b57106d63146e70196e"
    "7d1e6d89226a962766a32b61af315cbb3755c63e4dd14644db4f3be35932eb6528"
    "f1711ef67f14f98d0afb9c06fcab0ffbba1ff9ca32f5d949f2e865f3f586fcffa4"
)
_WIDEST = 4  # panels are at most as many times as wide as `height`
_THINNEST = 10  # no side is less than this part of `height`, whatever the image's proportions
GAP, TITLE = 4, 22
_FONT = ImageFont.load_default(13)
SMALL = ImageFont.load_default(11)


def draw(
    image: Pixels,
    heat: NDArray[np.float32] | None,
    truth: Mask | None,
    marked: Mask | None,
    span: tuple[float, float] | None,
    threshold: float | None,
    title: str,
    height: int,
) -> Image.Image:
    """Panels side by side under a title: the image, the heatmap over the grey image with a bar of its colours, and of
    large images the hottest place. The truth and the anomalous pixels are outlined on each.

    image (h, w, 3); heat, truth and marked (H0, W0), whose proportions the panels take; span (low, high) of the
    colours, or those of this heat.
    """
    original = heat.shape if heat is not None else truth.shape if truth is not None else image.shape[:2]
    size = panel_size((original[0], original[1]), height)
    marks: list[Mark] = []
    if marked is not None:
        marks.append(Mark("anomalous", marked, FOUND))
    if truth is not None:
        marks.append(Mark("truth", truth, TRUTH))  # last, so that it is seen where both are the same
    seen = resized(image, size)
    panels: list[Any] = [seen]
    if heat is not None:
        low, high = span or (float(heat.min()), float(heat.max()))
        scaled = ((heat_panel(heat, size) - low) / max(high - low, 1e-30)).clip(0, 1)
        panels.append(over_grey(seen, scaled))
    outlines = _contours(marks, size)
    panels = [outlined(panel, outlines) for panel in panels]
    if heat is not None:
        window = hottest(heat, size)
        if window is not None:
            panels = [framed(panel, window, heat.shape) for panel in panels]
        panels.append(colour_bar(size[0], low, high, threshold))
        if window is not None:
            nearer = _contours([mark.within(window) for mark in marks], size)
            panels.append(outlined(magnified(image, window, heat.shape, size), nearer))
    gap = np.full((size[0], GAP, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
    return _titled(row, title, [mark for mark in marks if mark.mask.any()])


def draw_labels(image: Pixels, labels: NDArray[np.integer[Any]], count: int, title: str, height: int) -> Image.Image:
    """Paint an image (h, w, 3) under a title, and beside it, over the grey image, a colour for each of its labels.

    Args:
        image: (h, w, 3).
        labels: (h, w), from 0 to count - 1.
        count: How many colours there are, evenly spaced around the colour circle.
        title: What stands above the panels.
        height: Of the panels, in pixels.
    """
    size = panel_size((image.shape[0], image.shape[1]), height)
    hues = Image.fromarray(np.array([[(256 * i // count, 255, 255) for i in range(count)]], np.uint8), "HSV")
    palette = np.asarray(hues.convert("RGB"), np.float32)[0]
    shown = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST))
    seen = resized(image, size)
    grey = np.asarray(Image.fromarray(seen).convert("L"), np.float32)[..., None]
    painted = np.rint(0.45 * palette[shown] + 0.55 * grey).astype(np.uint8)
    return _titled(np.hstack([seen, np.full((size[0], GAP, 3), 255, np.uint8), painted]), title, [])


class Mark(NamedTuple):
    """What is outlined."""

    name: str
    mask: NDArray[np.bool_]  # (H0, W0)
    colour: tuple[int, int, int]

    def within(self, window: Box) -> "Mark":
        """The part in a window of it."""
        top, left, bottom, right = window
        return self._replace(mask=self.mask[top:bottom, left:right])


def panel_size(original: Size, height: int) -> Size:
    """Height and width of the panels of an image of the size `original`: its proportions, unless they are extreme."""
    scale, least = min(height / original[0], _WIDEST * height / original[1]), max(1, height // _THINNEST)
    return max(least, round(scale * original[0])), max(least, round(scale * original[1]))


def _contours(marks: list[Mark], size: Size) -> list[tuple[Mask, Colour]]:
    """Return the outlines of masks (H0, W0) in a panel of `size`, (h, w) each, and their colours."""
    return [(outline(highest(mark.mask, size)), mark.colour) for mark in marks]


def outline(mask: Mask) -> Mask:
    """Return the pixels of a mask (H, W) with a neighbour outside it; of a region a pixel thin, itself."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def outlined(panel: Pixels, outlines: list[tuple[Mask, Colour]]) -> Pixels:
    """Return a panel (h, w, 3) with `_contours` on it."""
    panel = panel.copy()
    for pixels, colour in outlines:
        panel[pixels] = colour
    return panel


def resized(image: Pixels, size: Size) -> Pixels:
    """Return an image (h, w, 3) at another size: means of what shares a pixel, or bilinear between pixels."""
    method = Image.Resampling.BILINEAR if image.shape[0] < size[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size[::-1], method))


def over_grey(image: Pixels, scaled: NDArray[np.float32]) -> Pixels:
    """Return the colours of a heat (h, w) in [0, 1] over the grey image (h, w, 3)."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.rint(0.65 * colours(scaled).astype(np.float32) + 0.35 * grey).astype(np.uint8)


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
    """Return the colours of a heat (H, W) in [0, 1]: (H, W, 3)."""
    stops = np.frombuffer(_INFERNO, np.uint8).reshape(-1, 3)
    levels, places = np.arange(256) / 255, np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(levels, places, stops[:, channel]) for channel in range(3)], axis=1)
    return np.rint(table).astype(np.uint8)[(scaled * 255).astype(np.uint8)]


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


def framed(panel: Pixels, window: Box, original: Size) -> Pixels:
    """A panel (h, w, 3) with a white frame where a window of the whole lies."""
    scale = (panel.shape[0] / original[0], panel.shape[1] / original[1])
    top, left, bottom, right = (int(edge * scale[i % 2]) for i, edge in enumerate(window))
    panel = panel.copy()
    panel[top:bottom, [left, right - 1]] = panel[[top, bottom - 1], left:right] = 255
    return panel


def magnified(image: Pixels, window: Box, original: Size, size: Size) -> Pixels:
    """A window of the whole (H0, W0), of which the image (h, w, 3) is the resized picture, at `size`."""
    scale = [image.shape[axis] / original[axis] for axis in (0, 1)]
    steps = [(window[axis + 2] - window[axis]) * scale[axis] / size[axis] for axis in (0, 1)]
    place = (steps[1], 0, window[1] * scale[1], 0, steps[0], window[0] * scale[0])
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.transform(size[::-1], Image.Transform.AFFINE, place, Image.Resampling.BILINEAR))


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


def _titled(row: Pixels, title: str, marks: list[Mark]) -> Image.Image:
    """The panels (h, w, 3) under a title, and after it what the outlines' colours mean."""
    begin = int(_FONT.getlength(title)) + 24
    width = max([row.shape[1], begin - 16, *([begin + sum(_legend_width(mark) for mark in marks)] if marks else [])])
    picture = Image.new("RGB", (width, TITLE + row.shape[0]), "white")
    picture.paste(Image.fromarray(row), (0, TITLE))
    pen = ImageDraw.Draw(picture)
    pen.text((4, 3), title, fill="black", font=_FONT)
    for mark in marks:
        pen.rectangle([begin, 6, begin + 9, 15], outline="black", fill=mark.colour)
        pen.text((begin + 14, 3), mark.name, fill="black", font=_FONT)
        begin += _legend_width(mark)
    return picture


def _legend_width(mark: Mark) -> int:
    return int(_FONT.getlength(mark.name)) + 28
