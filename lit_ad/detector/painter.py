"""Draw pictures of a detector's results: colours, outlines, panels. All pictures of lit_ad are drawn here.

NumPy and Pillow only.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_ad.image.pixels import Pixels, Size
from lit_ad.image.resize import resize_bilinear
from lit_ad.image.view import Box

Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

TRUTH, FOUND = (0, 255, 0), (0, 190, 255)  # green and blue: outlines of true defects and of anomalous pixels
_STOPS = bytes.fromhex(  # matplotlib's colour map at 33 points: black, purple, orange, yellow
    "0000040403120b0724150b37210c4a2e0a5a3c09654a0c6b57106d63146e70196e"
    "7d1e6d89226a962766a32b61af315cbb3755c63e4dd14644db4f3be35932eb6528"
    "f1711ef67f14f98d0afb9c06fcab0ffbba1ff9ca32f5d949f2e865f3f586fcffa4"
)
_LEVELS = [np.interp(np.arange(256) / 255, np.linspace(0, 1, 33), list(_STOPS[channel::3])) for channel in range(3)]
_COLOURS = np.rint(np.stack(_LEVELS, axis=1)).astype(np.uint8)  # (256, 3)
_WIDEST = 4  # a panel is at most 4 x `height` wide
_THINNEST = 10  # no side of a panel is less than `height` / 10, whatever the image's proportions
GAP, TITLE = 4, 22  # pixels between panels, and of the title's line
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
    """Draw panels side by side: the image, the heatmap over the grey image, a bar of its colours, and, for large
    images, the window around the hottest pixel. The true defect and the anomalous pixels are outlined on each.

    Args:
        image: (h, w, 3).
        heat: The anomaly map, (H0, W0). The panels have its proportions. None: there is no heatmap.
        truth: The true defect, (H0, W0). None: it is not known.
        marked: The anomalous pixels, (H0, W0). None: there is no pixel threshold.
        span: The map values at which colours begin and end. None: the lowest and the highest value of this map.
        threshold: The map value that is marked on the colour bar. None: no mark.
        title: The line of text above the panels.
        height: Pixels of a panel.
    """
    original = heat.shape if heat is not None else truth.shape if truth is not None else image.shape[:2]
    size = fit_panel((original[0], original[1]), height)
    marks: list[Mark] = []
    if marked is not None:
        marks.append(Mark("anomalous", marked, FOUND))
    if truth is not None:
        marks.append(Mark("truth", truth, TRUTH))  # last, so that it covers the other outline where both are the same
    panel_image = resize_image(image, size)
    panels: list[Any] = [panel_image]
    if heat is not None:
        low, high = span or (float(heat.min()), float(heat.max()))
        scaled = ((resize_heat(heat, size) - low) / max(high - low, 1e-30)).clip(0, 1)
        panels.append(blend_over_grey(panel_image, scaled))
    outlines = _outline_marks(marks, size)
    panels = [draw_outlines(panel, outlines) for panel in panels]
    if heat is not None:
        window = find_hottest_window(heat, size)
        if window is not None:
            panels = [_draw_frame(panel, window, heat.shape) for panel in panels]
        panels.append(draw_colour_bar(size[0], low, high, threshold))
        if window is not None:
            magnified_outlines = _outline_marks([mark.within(window) for mark in marks], size)
            panels.append(draw_outlines(magnify_window(image, window, heat.shape, size), magnified_outlines))
    gap = np.full((size[0], GAP, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
    return _add_title(row, title, [mark for mark in marks if mark.mask.any()])


def draw_labels(image: Pixels, labels: NDArray[np.integer[Any]], count: int, title: str, height: int) -> Image.Image:
    """Draw an image, and beside it the grey image with a colour for the label of each pixel.

    Args:
        image: (h, w, 3).
        labels: (h, w), from 0 to count - 1.
        count: How many colours there are, evenly spaced around the colour circle.
        title: The line of text above the panels.
        height: Pixels of a panel.
    """
    size = fit_panel((image.shape[0], image.shape[1]), height)
    hues = Image.fromarray(np.array([[(256 * i // count, 255, 255) for i in range(count)]], np.uint8), "HSV")
    palette = np.asarray(hues.convert("RGB"), np.float32)[0]
    panel_labels = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST))
    panel_image = resize_image(image, size)
    grey = np.asarray(Image.fromarray(panel_image).convert("L"), np.float32)[..., None]
    painted = np.rint(0.45 * palette[panel_labels] + 0.55 * grey).astype(np.uint8)
    return _add_title(np.hstack([panel_image, np.full((size[0], GAP, 3), 255, np.uint8), painted]), title, [])


class Mark(NamedTuple):
    """A mask that is outlined, with its name in the legend."""

    name: str
    mask: NDArray[np.bool_]  # (H0, W0)
    colour: tuple[int, int, int]

    def within(self, window: Box) -> "Mark":
        """Return the mark of a window of the mask."""
        top, left, bottom, right = window
        return self._replace(mask=self.mask[top:bottom, left:right])


def fit_panel(original: Size, height: int) -> Size:
    """Return height and width of a panel: the proportions of the image's size `original`, unless they are extreme."""
    scale, least = min(height / original[0], _WIDEST * height / original[1]), max(1, height // _THINNEST)
    return max(least, round(scale * original[0])), max(least, round(scale * original[1]))


def _outline_marks(marks: list[Mark], size: Size) -> list[tuple[Mask, Colour]]:
    """Return the outlines of masks (H0, W0), resized to `size` (h, w), and their colours."""
    return [(outline(resize_by_maximum(mark.mask, size)), mark.colour) for mark in marks]


def outline(mask: Mask) -> Mask:
    """Return the pixels of a mask (H, W) that have a neighbour (4-connected) outside the mask."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def draw_outlines(panel: Pixels, outlines: list[tuple[Mask, Colour]]) -> Pixels:
    """Return a copy of a panel (h, w, 3) with outlines (h, w), each in its colour."""
    panel = panel.copy()
    for pixels, colour in outlines:
        panel[pixels] = colour
    return panel


def resize_image(image: Pixels, size: Size) -> Pixels:
    """Return an image (h, w, 3) at another size. A smaller image has the means of the pixels that fall into each new
    pixel; a larger one is interpolated bilinearly."""
    method = Image.Resampling.BILINEAR if image.shape[0] < size[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size[::-1], method))


def blend_over_grey(image: Pixels, scaled: NDArray[np.float32]) -> Pixels:
    """Return the colours of a heat (h, w) in [0, 1] over the grey image (h, w, 3)."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.rint(0.65 * colour_heat(scaled).astype(np.float32) + 0.35 * grey).astype(np.uint8)


def resize_by_maximum(values: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return values (H, W) at another size (h, w), so that a thin line does not vanish.

    If an axis shrinks, each new pixel has the maximum of the values that fall into it. If it grows, each new pixel has
    the value at its centre.
    """
    for axis, length in enumerate(size):
        old_length = values.shape[axis]
        if length < old_length:
            edges = np.arange(length + 1) * old_length // length
            cells = values.take(edges[:-1], axis)
            # Few steps over whole rows: np.maximum.reduceat takes ten times as long.
            for step in range(1, int(np.diff(edges).max())):
                cells = np.maximum(cells, values.take(np.minimum(edges[:-1] + step, edges[1:] - 1), axis))
            values = cells
        elif length > old_length:
            values = np.take(values, (2 * np.arange(length) + 1) * old_length // (2 * length), axis)
    return values


def resize_heat(heat: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return a map (H0, W0) at another size (h, w). An axis that shrinks keeps the maximum of the pixels that fall into
    each new pixel; an axis that grows is interpolated linearly."""
    return resize_bilinear(resize_by_maximum(heat, (min(size[0], heat.shape[0]), min(size[1], heat.shape[1]))), size)


def colour_heat(scaled: NDArray[np.float32]) -> Pixels:
    """Return the colours of a heat (H, W) in [0, 1]: (H, W, 3)."""
    return _COLOURS.take((scaled * 255).astype(np.uint8), axis=0)


def find_hottest_window(heat: NDArray[np.float32], size: Size) -> Box | None:
    """Return the window of `size` around the maximum of a map, in pixels of the map. None if no side of the map is more
    than twice as long as the window's."""
    if heat.shape[0] <= 2 * size[0] and heat.shape[1] <= 2 * size[1]:
        return None
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    sides = [min(side, length) for side, length in zip(size, heat.shape, strict=True)]
    starts = [
        min(max(int(place) - side // 2, 0), length - side)
        for place, side, length in zip(peak, sides, heat.shape, strict=True)
    ]
    return starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1]


def _draw_frame(panel: Pixels, window: Box, original: Size) -> Pixels:
    """Return a copy of a panel (h, w, 3) with a white frame around a window, which is in pixels of `original`."""
    scale = (panel.shape[0] / original[0], panel.shape[1] / original[1])
    top, left, bottom, right = (int(edge * scale[i % 2]) for i, edge in enumerate(window))
    panel = panel.copy()
    panel[top:bottom, [left, right - 1]] = panel[[top, bottom - 1], left:right] = 255
    return panel


def magnify_window(image: Pixels, window: Box, original: Size, size: Size) -> Pixels:
    """Return a window of the original (H0, W0) at `size`, taken from the image (h, w, 3), which is the original
    resized."""
    scale = [image.shape[axis] / original[axis] for axis in (0, 1)]
    top, left, bottom, right = (edge * scale[i % 2] for i, edge in enumerate(window))
    method = Image.Resampling.BILINEAR  # faster than Image.transform
    return np.asarray(Image.fromarray(image).resize(size[::-1], method, (left, top, right, bottom)))


@lru_cache(8)  # all pictures of a category have the same bar
def draw_colour_bar(height: int, low: float, high: float, threshold: float | None) -> Pixels:
    """Return a bar of the colours from `low` at the bottom to `high` at the top, with a line at the threshold:
    (height, w, 3)."""
    share = 0.0 if threshold is None else (threshold - low) / max(high - low, 1e-30)
    threshold_row = round((height - 1) * (1 - min(max(share, 0.0), 1.0)))
    labels = [] if height < 40 else [(f"{high:.3g}", 0), (f"{low:.3g}", height - 1)]
    if threshold is not None:
        labels.append((f"{threshold:.3g}", threshold_row))
    text_width = max([0, *(int(SMALL.getlength(text)) for text, _ in labels)])
    bar = Image.new("RGB", (14 + 4 + text_width, height), "white")
    column = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(14, axis=1)
    bar.paste(Image.fromarray(colour_heat(column)))
    pen = ImageDraw.Draw(bar)
    if threshold is not None:
        pen.line([(0, threshold_row), (16, threshold_row)], fill=FOUND, width=2)
    for text, row in labels:
        pen.text((18, min(max(row - 6, 0), max(height - 12, 0))), text, fill="black", font=SMALL)
    return np.asarray(bar)


def _add_title(row: Pixels, title: str, marks: list[Mark]) -> Image.Image:
    """Return the panels (h, w, 3) under a title and a legend of the outlines' colours."""
    begin = int(_FONT.getlength(title)) + 24
    width = max([row.shape[1], begin - 16, *([begin + sum(_measure_legend(mark) for mark in marks)] if marks else [])])
    picture = Image.new("RGB", (width, TITLE + row.shape[0]), "white")
    picture.paste(Image.fromarray(row), (0, TITLE))
    pen = ImageDraw.Draw(picture)
    pen.text((4, 3), title, fill="black", font=_FONT)
    for mark in marks:
        pen.rectangle([begin, 6, begin + 9, 15], outline="black", fill=mark.colour)
        pen.text((begin + 14, 3), mark.name, fill="black", font=_FONT)
        begin += _measure_legend(mark)
    return picture


def _measure_legend(mark: Mark) -> int:
    return int(_FONT.getlength(mark.name)) + 28
