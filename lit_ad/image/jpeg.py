"""Decode JPEG files with simplejpeg, if it is installed: exactly the pixels that Pillow gives, in less time.

Both use libjpeg-turbo. Since some builds of Pillow use another library, each process compares the two on small pictures
before its first JPEG file.
"""

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# How to turn pixels upright, for each orientation of EXIF; the same as Pillow's `exif_transpose`.
_TURNS: dict[int, Callable[[Any], Any]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


def decode_jpeg(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the upright pixels (H, W, 3) of a JPEG that Pillow has opened but not decoded.

    None if Pillow must decode it: the file is no JPEG or has CMYK colours, or simplejpeg is missing or cannot read it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or (decode := find_decoder()) is None:
        return None
    stream: Any = image.fp  # type: ignore[attr-defined]  # only Pillow's ImageFile has this type
    stream.seek(0)
    try:
        pixels = decode(stream.read(), "RGB")
    except ValueError:  # Pillow reads slightly damaged files, and its error says what is wrong with others
        return None
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@cache
def find_decoder() -> Callable[[bytes, str], NDArray[np.uint8]] | None:
    """Return simplejpeg's decoder. None if it is not installed, or gives other pixels than Pillow."""
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
