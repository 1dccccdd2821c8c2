"""Any image -> uint8 RGB. NumPy and Pillow only, so that a detector needs no more."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from lit_ad.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Tags of TIFF 6.0. In the first, bit 0 says that a page is a smaller copy, bit 2 that it is a mask.
NEW_SUBFILE_TYPE, EXTRA_SAMPLES, UNSPECIFIED = 254, 338, 0

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Size = tuple[int, int]  # height, width
Window = tuple[float, float]  # the values of an image of more than 8 bits that become 0 and 255


def read_image(path: Path, window: Window | None = None) -> Pixels:
    """Any image file -> (H, W, 3) uint8 RGB, turned upright as its EXIF says. See `rgb` for depths and colours.

    Raises:
        UserError: The file cannot be read, or holds values that have no RGB; it is named.
    """
    return rgb(open_image(path), str(path), window)


def to_rgb(image: "str | Path | Image.Image | NDArray[Any]", window: Window | None = None) -> Pixels:
    """A file, a Pillow image or an array -> (H, W, 3) uint8 RGB.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA: uint8, uint16 with all of its range in use, or floats
    in [0, 1]; with a window, any numbers of more than 8 bits.

    Raises:
        UserError: A file that cannot be read; anything else.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), window)
    if isinstance(image, Image.Image):
        return rgb(ImageOps.exif_transpose(image), "the image", window)
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
        kind = f"an array of shape {image.shape}" if isinstance(image, np.ndarray) else f"{type(image).__name__}"
        raise UserError(f"an image is a path, a Pillow image or an array (H, W), (H, W, 3) or (H, W, 4), not {kind}")
    values = image[..., None] if image.ndim == 2 else image[..., :3]
    if window is not None:
        values = windowed(values, window, "the array")
    elif values.dtype != np.uint8:
        top = {"u2": 65535.0, "f4": 1.0, "f8": 1.0, "f2": 1.0, "b1": 1.0}.get(values.dtype.str[1:])
        if top is None or not values.size or not (values.min() >= 0 and values.max() <= top):
            raise UserError(
                f"an array of {image.dtype} with values from {image.min()} to {image.max()} is no image: give uint8, "
                "uint16, or floats in [0, 1]"
            )
        values = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.ascontiguousarray(values)


def rgb(image: Image.Image, name: str, window: Window | None = None) -> Pixels:
    """A decoded image -> (H, W, 3) uint8 RGB. Raises UserError that names it.

    16-bit values are divided by 257, so that 0..65535 becomes 0..255; float images must lie in [0, 1]. With a window,
    `windowed` does it. Transparency is dropped, which leaves the colours as stored; CMYK is converted without colour
    profile. Of a GIF's pages, the first.
    """
    if window is not None:
        return np.repeat(windowed(deep_values(image, name), window, name)[..., None], 3, axis=2)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        top = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= top):  # so that NaN fails
            raise UserError(
                f"{name} has values from {values.min()} to {values.max()}: integer images must lie in 0..65535 and "
                "float images in 0..1; convert it"
            )
        grey = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise UserError(f"{name} has pixels of kind {image.mode}, which have no RGB: convert it") from error


def deep_values(image: Image.Image, name: str) -> NDArray[Any]:
    """The values of a grey image of more than 8 bits, (H, W). Raises UserError if it is another."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        raise UserError(
            f"{name} has values of 8 bits, and view.window is for grey images of more: leave it out, or convert the "
            "image (of colours of 16 bits, Pillow reads 8)"
        )
    return np.asarray(image)


def windowed(values: NDArray[Any], window: Window, name: str) -> NDArray[np.uint8]:
    """Numbers of more than 8 bits -> uint8: `window` becomes 0 and 255, what lies beyond is cut off.

    Raises UserError that names the image on values of 8 bits, which are of another scale, and on NaN.
    """
    low, high = window
    if values.dtype.kind not in "uif" or values.dtype.itemsize < 2 or not np.isfinite(values).all():
        raise UserError(
            f"{name} has {values.dtype} values, or some that are not finite, and view.window is for numbers of more "
            "than 8 bits"
        )
    return np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)


def upright_size(path: Path) -> Size:
    """Height and width of an image file, turned upright, from its header. Raises UserError as `open_image` does."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # its `size` is upright already, but only in newer versions of Pillow
                width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
            # Asked for the EXIF data of a PNG, Pillow decodes all of it, since they may follow the pixels.
            exif = image.getexif() if image.format != "PNG" or text_follows(path) else Image.Image.getexif(image)
            turned = exif.get(ExifTags.Base.Orientation, 1) >= 5
    except Exception as error:
        raise UserError(f"cannot read {path}: {error}; replace or remove it") from error
    return (width, height) if turned else (height, width)


def text_follows(path: Path) -> bool:
    """Whether a PNG has chunks of EXIF data or text behind its pixels."""
    behind = False
    with path.open("rb") as file:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            behind = behind or start[4:] == b"IDAT"
            if behind and start[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(start[:4], "big") + 4, os.SEEK_CUR)  # what it holds, and its checksum
    return False


def open_image(path: Path) -> Image.Image:
    """A decoded image, turned upright. Raises UserError if it cannot be read to its end."""
    try:
        with Image.open(path) as image:
            several, unknown = pages(image), UNSPECIFIED in getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ())
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image is one too many
    except Exception as error:  # decoders raise all sorts: OSError, SyntaxError, struct.error, zlib.error, ...
        more = ", or keep three of its channels if it has more" if path.suffix.lower() in (".tif", ".tiff") else ""
        raise UserError(f"cannot read {path}: {error}; replace or remove it{more}") from error
    if unknown:
        raise UserError(
            f"{path} has more than three channels, of which the last is no transparency: keep three of them"
        )
    if several > 1:
        raise UserError(f"{path} has {several} pages, and an image is one: save each page as a file of its own")
    return image


def pages(image: Image.Image) -> int:
    """How many images a TIFF holds: smaller copies of one and masks of its transparency do not count."""
    if not isinstance(image, TiffImageFile):
        return 1
    count = 0
    for page in range(image.n_frames):
        image.seek(page)
        count += not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 0b101
    image.seek(0)
    return count
