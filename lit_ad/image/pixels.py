"""Any image -> uint8 RGB. NumPy and Pillow only, so that a detector needs no more."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from lit_ad.errors import UserError, ViewMismatch
from lit_ad.image.jpeg import decode_jpeg
from lit_ad.image.limits import check_pixels, read_within_limits

EXTENSIONS = (  # of files that count as images; Pillow's readers of other kinds are rare, or start other programs
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
    *((".jp2", ".j2k") if features.check("jpg_2000") else ()),
    *((".avif",) if "avif" in features.modules and features.check("avif") else ()),  # since Pillow 11.3
)

PAGE = re.compile(r"(.+\.tiff?)#([1-9]\d*)", re.IGNORECASE)  # a page of a file, the first of them is 1: stack.tif#3

_TURNED = (5, 6, 7, 8)  # orientations of EXIF by which width and height change places; Pillow ignores unknown ones

# Tags of TIFF 6.0. In the first, bit 0 says that a page is a smaller copy, bit 2 that it is a mask.
NEW_SUBFILE_TYPE, EXTRA_SAMPLES, UNSPECIFIED = 254, 338, 0

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Size = tuple[int, int]  # height, width
T = TypeVar("T")
Window = tuple[float, float]  # the values of an image of more than 8 bits that become 0 and 255


def read_image(path: Path, window: Window | None = None, content: bytes | None = None) -> Pixels:
    """Any image file -> (H, W, 3) uint8 RGB, turned upright as its EXIF says. See `rgb` for depths and colours.

    Of a TIFF of several pages, one is named: stack.tif#3 is the third. `content` is what the file holds, if it is no
    file; `path` is then the name of it in messages.

    Raises:
        UserError: The file cannot be read, holds values that have no RGB, or several pages; it is named.
    """
    jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif") if content is None else content[:2] == b"\xff\xd8"
    if jpeg and window is None:

        def read() -> Pixels | None:
            with opened(path, content) as image:
                return decode_jpeg(image)

        if (pixels := read_file(read, path)) is not None:
            return pixels
    return rgb(open_image(path, content), str(path), window)


def to_rgb(image: "str | Path | Image.Image | NDArray[Any]", window: Window | None = None) -> Pixels:
    """A file, a Pillow image or an array -> (H, W, 3) uint8 RGB.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA: uint8, uint16 with all of its range in use, or floats
    in [0, 1]; with a window, any numbers of more than 8 bits. A path may name a page, as `read_image` says; of a Pillow
    image it is the page that it is at.

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
    if not image.size:
        raise UserError(f"an array of shape {image.shape} has no pixels")
    values = image[..., None] if image.ndim == 2 else image[..., :3]
    if window is not None:
        values = _windowed(values, window, "the array")
    elif values.dtype != np.uint8:
        top = {"u2": 65535.0, "f4": 1.0, "f8": 1.0, "f2": 1.0, "b1": 1.0}.get(values.dtype.str[1:])
        if top is None or not (values.min() >= 0 and values.max() <= top):
            raise UserError(
                f"an array of {image.dtype} with values from {image.min()} to {image.max()} is no image: give uint8, "
                "uint16, or floats in [0, 1]"
            )
        values = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.ascontiguousarray(values)


def rgb(image: Image.Image, name: str, window: Window | None = None) -> Pixels:
    """A decoded image -> (H, W, 3) uint8 RGB. Raises UserError that names it.

    16-bit values are divided by 257, so that 0..65535 becomes 0..255; float images must lie in [0, 1]. With a window,
    `_windowed` does it. Transparency is dropped, which leaves the colours as stored; CMYK is converted without colour
    profile. Of a GIF's pages, the first.
    """
    if window is not None:
        return np.repeat(_windowed(deep_values(image, name), window, name)[..., None], 3, axis=2)
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
        raise ViewMismatch(
            f"{name} has values of 8 bits, and view.window is for grey images of more: leave it out, or convert the "
            "image (of colours of 16 bits, Pillow reads 8)"
        )
    return np.asarray(image)


def _windowed(values: NDArray[Any], window: Window, name: str) -> NDArray[np.uint8]:
    """Numbers of more than 8 bits -> uint8: `window` becomes 0 and 255, what lies beyond is cut off.

    Raises UserError that names the image on values of 8 bits, which are of another scale, and on NaN.
    """
    low, high = window
    if values.dtype.kind not in "uif" or values.dtype.itemsize < 2 or not np.isfinite(values).all():
        raise ViewMismatch(
            f"{name} has {values.dtype} values, or some that are not finite, and view.window is for numbers of more "
            "than 8 bits"
        )
    return np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)


def upright_size(path: Path) -> Size:
    """Height and width of an image file, turned upright, from its header. Raises UserError as `open_image` does."""

    def read() -> Size:
        with opened(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # its `size` is upright already, but only in newer versions of Pillow
                width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
            # Asked for the EXIF data of a PNG, Pillow decodes all of it, since they may follow the pixels.
            exif = image.getexif() if image.format != "PNG" or _text_follows(path) else Image.Image.getexif(image)
            return (width, height) if exif.get(ExifTags.Base.Orientation) in _TURNED else (height, width)

    return read_file(read, path)


def _text_follows(path: Path) -> bool:
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


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """A decoded image, turned upright. Raises UserError if it cannot be read to its end, or exceeds a limit of ours.

    `content` is what the file holds, if it is no file; `path` is then the name of it in messages.
    """

    def read() -> Image.Image:
        with opened(path, content) as image:
            unknown = UNSPECIFIED in getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ())
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image is one too many
        if unknown:
            raise UserError(
                f"{path} has more than three channels, of which the last is no transparency: keep three of them"
            )
        return image

    tiff = split_page(path)[0].suffix.lower() in (".tif", ".tiff")
    return read_file(read, path, ", or keep three of its channels if it has more" if tiff else "")


def read_file(read: Callable[[], T], path: Path, remedy: str = "") -> T:
    """The result of `read`, which opens the image file `path`, within our limits. Raises UserError that names it."""
    try:
        return read_within_limits(read)
    except UserError:
        raise
    except Exception as error:  # decoders raise all sorts: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UserError(f"cannot read {path}: {reason_of(error)}; replace or remove it{remedy}") from error


def reason_of(error: BaseException) -> str:
    """Why a file cannot be read: without the file, which Pillow and the system name as an object in memory or again."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a kind that is read here"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# Pages.


def split_page(path: Path) -> tuple[Path, int | None]:
    """The file of an image, and the page of it that a path such as stack.tif#3 names."""
    named = PAGE.fullmatch(path.name)
    return (path, None) if named is None else (path.with_name(named[1]), int(named[2]))


def page_paths(path: Path) -> list[Path]:
    """The images in a file: itself, or the pages of a TIFF, by its headers. One that cannot be read is itself."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return [path]
    try:
        kinds = _kinds_in(path, path.stat().st_mtime_ns)
    except Exception:  # it is told of by who reads it
        return [path]
    if len(kinds) < 2 or len(set(kinds)) > 1:
        return [path]
    return [path.with_name(f"{path.name}#{number}") for number in range(1, len(kinds) + 1)]


@lru_cache(2**16)
def _kinds_in(path: Path, modified: int) -> tuple[str, ...]:
    """Of each page of a file, as `page_kinds`; `modified` is when it was written."""

    def read() -> tuple[str, ...]:
        with Image.open(path) as image:
            return tuple(page_kinds(image))

    return read_within_limits(read)


@contextmanager
def opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file, or its content, not decoded yet, at the page that the path names.

    Raises UserError where there is no such page, or where there are several and none is named; TooLarge; and what
    Pillow raises, so that `read_file` should call the function that calls it.
    """
    file, page = split_page(path) if content is None else (path, None)
    # Given a path, Pillow (13.0 too) maps an uncompressed grey TIFF into memory as if it were upright, and garbles one
    # that is not; given an open file, it reads it.
    with file.open("rb") if content is None else BytesIO(content) as stream, Image.open(stream) as image:
        if page is not None and next(islice(page_kinds(image), page - 1, None), None) is None:
            raise UserError(f"{file} has no page {page}")
        if page is None and len(kinds := list(page_kinds(image))) > 1:
            if len(set(kinds)) > 1:
                first_kind, other = (kinds[0], next(kind for kind in kinds if kind != kinds[0]))
                raise UserError(
                    f"{file} has pages of different kinds, {first_kind} and {other}, so that they are no images of one "
                    "sort: save those that are as files of their own"
                )
            remedy = f"name one, such as {file}#1" if content is None else "give one of them"
            raise UserError(f"{file} has {len(kinds)} pages, each of them an image: {remedy}")
        check_pixels(image)
        yield image


def page_kinds(image: Image.Image) -> Iterator[str]:
    """Turn an opened file to each of its pages, and say how large it is and of what kind; in the end, to the first.

    Smaller copies of an image, and masks of its transparency, are no pages. Only a TIFF has several.
    """
    if not isinstance(image, TiffImageFile):
        yield image.mode
        return
    first: int | None = None
    for frame in count():
        try:
            image.seek(frame)
        except EOFError:
            break
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 0b101:
            first = frame if first is None else first
            yield f"{image.height}x{image.width} {image.mode}"
    image.seek(first or 0)
