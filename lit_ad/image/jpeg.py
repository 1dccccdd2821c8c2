"""JPEG files by simplejpeg, where it is installed: the pixels of Pillow, to the last bit, in less time.

Both decode by libjpeg-turbo. A Pillow of another system may be built with another library, so that a process compares
them on pictures made here before its first JPEG file.
"""

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_TURNS: dict[
    int, Callable[[Any], Any]
] = {  # by EXIF's orientation, as Pillow's `exif_transpose` turns an image upright
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


def decode_jpeg(image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG that Pillow has opened and not decoded yet, upright: (H, W, 3).

    None where Pillow is to decode it: other kinds of files, colours for printing, and what simplejpeg cannot read.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or (decode := find_decoder()) is None:
        return None
    stream: Any = image.fp  # type: ignore[attr-defined]  # typed for opened files alone
    stream.seek(0)
    try:
        pixels = decode(stream.read(), "RGB")
    except ValueError:  # Pillow reads what is damaged a little, and says what is wrong with the rest
        return None
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@cache
def find_decoder() -> Callable[[bytes, str], NDArray[np.uint8]] | None:
    """simplejpeg's, if it is installed and gives the pixels that Pillow does."""
    try:
        import simplejpeg
    except ImportError:
        return None
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    for subsampling in (0, 1, 2):
        stream = BytesIO()
        coarse.resize((61, 83), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85, subsampling=subsampling)
        with Image.open(stream) as image:
            if not np.array_equal(np.asarray(image), simplejpeg.decode_jpeg(stream.getvalue(), "RGB")):
                return None
    decoder: Callable[[bytes, str], NDArray[np.uint8]] = simplejpeg.decode_jpeg
    return decoder
