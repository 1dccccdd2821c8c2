"""Read from one file what an audit needs: its header, its greatest value, its checksums, the extent of a mask."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lit_ad.data.masks import read_mask
from lit_ad.image.conversion import require_deep_values
from lit_ad.image.pixels import Size, open_image, open_page, read_file, read_image, read_upright_size
from lit_ad.image.roi import select_inside
from lit_ad.image.view import View


class Header(NamedTuple):
    """The content of an image file's header."""

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
    """How much of a mask is marked."""

    part: float  # fraction of all pixels, from 0 to 1
    border: float  # fraction of the outermost pixels, from 0 to 1
    inside: bool  # whether a marked pixel lies in the view's region of interest


def read_header(path: Path, view: View) -> Header:
    """Read the header of an image. Raises UserError if the view's region of interest does not lie in the image."""
    size = read_upright_size(path)
    if view.region is not None:
        view.region.check(size)

    def read() -> Header:
        with open_page(path) as image:
            return Header(size, _describe_mode(image))

    return read_file(read, path)


def _describe_mode(image: Image.Image) -> str:
    """Return bit depth and colours of an opened image: "8-bit RGB"."""
    # Pillow converts 16-bit RGB to 8 bits; only its decoder's arguments, in `tile`, still show the 16 bits.
    deep = image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", ""))
    bits = 16 if deep else {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)
    colours = "grey" if image.mode[0] in "1LIF" else {"P": "palette", "RGBA": "RGB with alpha"}.get(image.mode)
    return f"{bits}-bit {colours or image.mode}"


def read_max_value(path: Path, view: View) -> int:
    """Return the greatest value of an image, 0 to 255, read as in the test. Raises UserError if it is damaged."""
    if view.window == "auto":  # the window is not known yet
        return 255 if require_deep_values(open_image(path), str(path)).max() else 0
    return int(read_image(path, view.levels).max(initial=0))


def verify_file(path: Path) -> None:
    """Raise UserError if the checksums of a file show that it is damaged. The image is not decoded."""

    def read() -> None:
        with open_page(path) as image:
            image.verify()

    read_file(read, path)


def measure_mask(path: Path, view: View, above: int | None = None) -> MaskExtent:
    """Measure how much of a mask is marked; `above` as for `read_mask`. Raises UserError if it cannot be read."""
    mask = read_mask(path, above)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return MaskExtent(float(mask.mean()), float(border.mean()), bool(select_inside(mask, view.region).any()))
