"""What an audit reads from one file: its header, its greatest value, its checksums, the extent of a mask."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lit_ad.data.masks import read_mask
from lit_ad.image.conversion import require_deep_values
from lit_ad.image.pixels import Size, open_image, open_page, read_file, read_image, upright_size
from lit_ad.image.roi import values_inside
from lit_ad.image.view import View


class Header(NamedTuple):
    """What an image file's header says."""

    size: Size  # height, width
    mode: str  # such as "8-bit RGB"

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def deep(self) -> bool:
        """Whether the image has 16 bits."""
        return self.mode.startswith("16")


class MaskExtent(NamedTuple):
    """How much of a mask is anomalous."""

    part: float  # of the mask, from 0 to 1
    border: float  # of its outermost pixels, likewise
    inside: bool  # whether any of it lies in the view's region of interest


def read_header(path: Path, view: View) -> Header:
    """What the header of an image says. Raises UserError if the view's region of interest does not lie in it."""
    size = upright_size(path)
    if view.region is not None:
        view.region.check(size)

    def read() -> Header:
        with open_page(path) as image:
            return Header(size, _describe_mode(image))

    return read_file(read, path)


def _describe_mode(image: Image.Image) -> str:
    """Bit depth and colours of an opened image."""
    # Pillow reads RGB of 16 bits as RGB of 8; how it is going to do so tells them apart.
    deep = image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", ""))
    bits = 16 if deep else {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)
    colours = "grey" if image.mode[0] in "1LIF" else {"P": "palette", "RGBA": "RGB with alpha"}.get(image.mode)
    return f"{bits}-bit {colours or image.mode}"


def max_value(path: Path, view: View) -> int:
    """The greatest value of an image, 0 to 255, read as the test will read it. Raises UserError if it is damaged."""
    if view.window == "auto":  # which is not known yet
        return 255 if require_deep_values(open_image(path), str(path)).max() else 0
    return int(read_image(path, view.levels).max(initial=0))


def verify_file(path: Path) -> None:
    """Raises UserError on a damaged file, as far as its checksums tell without decoding."""

    def read() -> None:
        with open_page(path) as image:
            image.verify()

    read_file(read, path)


def measure_mask(path: Path, view: View, above: int | None = None) -> MaskExtent:
    """How much of a mask is anomalous; `above` as `read_mask` has it. Raises UserError if it cannot be read."""
    mask = read_mask(path, above)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return MaskExtent(float(mask.mean()), float(border.mean()), bool(values_inside(mask, view.region).any()))
