"""RUN/thumbnails.zip: a small picture of each tested image, of its truth, and of its heatmap, each of bounded size.

It is one file, because a run would have thousands of small ones. Its entries are NUMBER.KIND, and the entry index.json
maps each image's path to its number. The archive does not compress the pictures, which are compressed already.
"""

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import Pixels, Size

THUMBNAILS = "thumbnails.zip"
SIDE = 256  # pixels of the longer side
BYTES = {"image": 14_000, "heat": 7_000}  # kind -> largest size; a truth has 1 bit a pixel, so 8 600 bytes at most
_QUALITIES = (80, 65, 50, 35, 20, 10)
INDEX = "index.json"


def compute_thumbnail_size(image: Size) -> Size:
    """Return the (height, width) of an image's picture: no larger than the image, and no side below 8 pixels."""
    scale = min(1.0, SIDE / max(image))
    return max(8, round(scale * image[0])), max(8, round(scale * image[1]))


def encode_jpeg(pixels: Pixels, most: int) -> bytes:
    """Return pixels (h, w, 3) as a JPEG of at most `most` bytes. Quality, and then size, is lowered until it fits."""
    image = Image.fromarray(pixels)
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            image.save(file, format="JPEG", quality=quality)
            if file.tell() <= most:
                return file.getvalue()
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def encode_outline(outline: NDArray[np.bool_], colour: tuple[int, int, int]) -> bytes:
    """Return an outline (h, w) as a PNG of one colour on a transparent ground, with 1 bit a pixel."""
    picture = Image.fromarray(outline.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *colour])
    file = io.BytesIO()
    picture.save(file, format="PNG", bits=1, transparency=0, optimize=True)
    return file.getvalue()


def join_archives(parts: Iterable[Path], paths: dict[int, str], file: Path) -> list[int]:
    """Write the entries of several archives into one, in the order of the images' numbers.

    Args:
        parts: The archives.
        paths: The number of each image, with its path.
        file: The archive to write.

    Returns:
        The numbers of images that no archive has.

    Raises:
        UserError: The file cannot be written.
    """
    archives = [zipfile.ZipFile(part) for part in parts]
    try:
        where = {name: archive for archive in archives for name in archive.namelist()}
        with atomic_write(file) as temporary, zipfile.ZipFile(temporary, "w") as joint:
            numbers = {path: number for number, path in sorted(paths.items())}
            joint.writestr(zipfile.ZipInfo(INDEX), json.dumps(numbers))
            for name in sorted(where, key=lambda name: (int(name.partition(".")[0]), name)):
                # A ZipInfo has the date 1980, so that the same test writes the same file.
                joint.writestr(zipfile.ZipInfo(name), where[name].read(name))
        return [number for number in paths if f"{number}.image" not in where]
    finally:
        for archive in archives:
            archive.close()


class Thumbnails:
    """Reads the thumbnails of a run, one by one. Raises UserError if the file is no archive of thumbnails."""

    def __init__(self, home: Path) -> None:
        file = home / THUMBNAILS
        self.archive, self.numbers, self.names = None, {}, set[str]()
        if not file.is_file():
            return
        try:
            self.archive = zipfile.ZipFile(file)
            self.numbers = json.loads(self.archive.read(INDEX))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} has no thumbnails ({error}): remove it, or test the run again") from error
        self.names = set(self.archive.namelist())

    def __call__(self, path: str, kind: str) -> bytes | None:
        """Return a picture of an image: its kind is "image", "truth" or "heat". None if there is none."""
        name = f"{self.numbers.get(path)}.{kind}"
        return self.archive.read(name) if self.archive is not None and name in self.names else None

    def size(self, path: str, kind: str) -> int:
        """Return the size of a picture in bytes; 0 if there is none."""
        name = f"{self.numbers.get(path)}.{kind}"
        return self.archive.getinfo(name).file_size if self.archive is not None and name in self.names else 0
