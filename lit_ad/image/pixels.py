"""Read any image as uint8 RGB. NumPy and Pillow only, so that a detector needs no more."""

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

from lit_ad.errors import UserError
from lit_ad.image.conversion import array_to_rgb, convert_to_rgb
from lit_ad.image.jpeg import decode_jpeg
from lit_ad.image.limits import check_pixels, read_within_limits

# The suffixes of image files. Pillow can read other formats, but they are rare, or their readers start other programs.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
    *((".jp2", ".j2k") if features.check("jpg_2000") else ()),
    *((".avif",) if "avif" in features.modules and features.check("avif") else ()),  # since Pillow 11.3
)

PAGE = re.compile(r"(.+\.tiff?)#([1-9]\d*)", re.IGNORECASE)  # a page of a TIFF, such as stack.tif#3; the first is 1

_TURNED = (5, 6, 7, 8)  # orientations of EXIF that swap width and height; Pillow ignores unknown ones

# Tags of TIFF 6.0. In NewSubfileType, bit 0 marks a page that is a smaller copy, and bit 2 a mask. UNSPECIFIED is a
# value of ExtraSamples: a channel that is no transparency.
NEW_SUBFILE_TYPE, EXTRA_SAMPLES, UNSPECIFIED = 254, 338, 0

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Size = tuple[int, int]  # height, width
Window = tuple[float, float]  # for images of more than 8 bits, the values that become 0 and 255
T = TypeVar("T")


def read_image(path: Path, window: Window | None = None, content: bytes | None = None) -> Pixels:
    """Read an image file as (H, W, 3) uint8 RGB, turned upright as its EXIF says.

    `convert_to_rgb` tells how bit depths and colours are converted.

    Args:
        path: The file. For a TIFF with several pages, it names a page: stack.tif#3 is the third.
        window: See `convert_to_rgb`.
        content: The bytes of an image that is not in a file; `path` is then only its name in messages.

    Raises:
        UserError: The file cannot be read, its values cannot be converted, or it has several pages and none is named.
    """
    jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif") if content is None else content[:2] == b"\xff\xd8"
    if jpeg and window is None:

        def read() -> Pixels | None:
            with open_page(path, content) as image:
                return decode_jpeg(image)

        if (pixels := read_file(read, path)) is not None:
            return pixels
    return convert_to_rgb(open_image(path, content), str(path), window)


def to_rgb(image: "str | Path | Image.Image | NDArray[Any]", window: Window | None = None) -> Pixels:
    """Return a file, a Pillow image or an array as (H, W, 3) uint8 RGB.

    Args:
        image: A path, which may name a page (see `read_image`); a Pillow image, whose current page is taken; or an
            array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA. Arrays are uint8, uint16 whose full range is
            0..65535, or floats in [0, 1]; with a window, any numbers of more than 8 bits.
        window: See `convert_to_rgb`.

    Raises:
        UserError: The file cannot be read, or the values or the type are not those of an image.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), window)
    if isinstance(image, Image.Image):
        return convert_to_rgb(ImageOps.exif_transpose(image), "the image", window)
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
        kind = f"an array of shape {image.shape}" if isinstance(image, np.ndarray) else f"{type(image).__name__}"
        raise UserError(f"an image is a path, a Pillow image or an array (H, W), (H, W, 3) or (H, W, 4), not {kind}")
    if not image.size:
        raise UserError(f"an array of shape {image.shape} has no pixels")
    return array_to_rgb(image, window)


def read_upright_size(path: Path) -> Size:
    """Return height and width of an image file, turned upright, from its header. Raises UserError as `open_image`
    does."""

    def read() -> Size:
        with open_page(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # newer versions of Pillow give the upright `size`, older ones do not
                width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
            # The `getexif` of PNG images decodes all pixels, because EXIF data may follow them. If no data follow, the
            # base class's `getexif` is enough, which decodes none.
            exif = image.getexif() if image.format != "PNG" or _text_follows(path) else Image.Image.getexif(image)
            return (width, height) if exif.get(ExifTags.Base.Orientation) in _TURNED else (height, width)

    return read_file(read, path)


def _text_follows(path: Path) -> bool:
    """Return whether a PNG has chunks of EXIF data or text after its pixels."""
    after_pixels = False
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            after_pixels = after_pixels or kind == b"IDAT"
            if after_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)  # skip the chunk's content and its checksum
    return False


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Decode an image and turn it upright. `path` and `content`: see `read_image`.

    Raises UserError if the image cannot be read to its end, or exceeds one of our limits.
    """

    def read() -> Image.Image:
        with open_page(path, content) as image:
            unknown = UNSPECIFIED in getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ())
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # saves the memory of a copy
        if unknown:
            raise UserError(
                f"{path} has more than three channels, and the last one is no transparency: keep three of them"
            )
        return image

    tiff = split_page(path)[0].suffix.lower() in (".tif", ".tiff")
    return read_file(read, path, ", or keep three of its channels if it has more" if tiff else "")


def read_file(read: Callable[[], T], path: Path, remedy: str = "") -> T:
    """Return the result of `read`, which opens the image file `path`, within our limits.

    Raises UserError, which names the file and the `remedy`, whatever error `read` raises.
    """
    try:
        return read_within_limits(read)
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UserError(f"cannot read {path}: {find_reason(error)}; replace or remove it{remedy}") from error


def find_reason(error: BaseException) -> str:
    """Return why a file cannot be read, without the file's name: the caller's message has it already."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image in a known format"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# Pages.


def split_page(path: Path) -> tuple[Path, int | None]:
    """Return the file of an image, and the page that a path such as stack.tif#3 names, else None."""
    named = PAGE.fullmatch(path.name)
    return (path, None) if named is None else (path.with_name(named[1]), int(named[2]))


def list_page_paths(path: Path) -> list[Path]:
    """Return a path for each image in a file: the file itself, or each page of a TIFF whose pages are of one kind."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return [path]
    try:
        kinds = _list_page_kinds(path, path.stat().st_mtime_ns)
    except Exception:  # the file cannot be read: whoever reads it later gets the error
        return [path]
    if len(kinds) < 2 or len(set(kinds)) > 1:
        return [path]
    return [path.with_name(f"{path.name}#{number}") for number in range(1, len(kinds) + 1)]


@lru_cache(2**16)
def _list_page_kinds(path: Path, modified: int) -> tuple[str, ...]:
    """Return `visit_pages` of a file as a tuple. `modified`, its time, makes the cache forget a file that changes."""

    def read() -> tuple[str, ...]:
        with Image.open(path) as image:
            return tuple(visit_pages(image))

    return read_within_limits(read)


@contextmanager
def open_page(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file, or its content, at the page that the path names. The image is not decoded yet.

    Call it inside a function that `read_file` runs, because Pillow's errors pass through.

    Raises:
        UserError: There is no such page, or there are several pages and none is named.
        TooLarge: The image exceeds one of our limits.
    """
    file, page = split_page(path) if content is None else (path, None)
    # Give Pillow an open file, not a path: it would map an uncompressed grey TIFF into memory as if it were upright,
    # and garble one that is not (up to version 13.0 at least).
    with file.open("rb") if content is None else BytesIO(content) as stream, Image.open(stream) as image:
        if page is not None and next(islice(visit_pages(image), page - 1, None), None) is None:
            raise UserError(f"{file} has no page {page}")
        if page is None and len(kinds := list(visit_pages(image))) > 1:
            if len(set(kinds)) > 1:
                other_kind = next(kind for kind in kinds if kind != kinds[0])
                raise UserError(
                    f"{file} has pages of different kinds, {kinds[0]} and {other_kind}, which are not images of the "
                    "same sort: save the images as files of their own"
                )
            remedy = f"name one, such as {file}#1" if content is None else "give one of them"
            raise UserError(f"{file} has {len(kinds)} pages, each of them an image: {remedy}")
        check_pixels(image)
        yield image


def visit_pages(image: Image.Image) -> Iterator[str]:
    """Seek each page of an opened file in turn, and yield its size and mode as text. At the end, seek the first page.

    Smaller copies of an image, and masks of its transparency, do not count as pages. Only a TIFF has several pages.
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
