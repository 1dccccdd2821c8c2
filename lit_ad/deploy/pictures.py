"""Pictures of judged images, in files beside the journal, with a limit on their total size."""

import io
import re
import struct
import zlib
from contextlib import suppress

import numpy as np
from PIL import Image

from lit_ad.counts import format_count
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.errors import UserError
from lit_ad.files import explain_write_errors
from lit_ad.image.pixels import Pixels
from lit_ad.names import printable

PICTURES = "pictures"  # the folder beside the journal
_NAME = re.compile(r"\d{9,}\.\w+")  # of a file that `Pictures.save` wrote
_UP = 2  # PNG's filter that subtracts the row above from each row


class Pictures:
    """The files of DIR/pictures.

    If a new picture would exceed the limit, older ones are removed: first the oldest nominal images of the random
    sample, then the oldest borderline images, then the oldest anomalous ones. Labelled pictures stay.

    Args:
        file: The journal, which has the name of each picture. Pictures that it does not name are left over from a
            killed process, and are removed at the start. The names of pictures that are gone are removed, too.
        most_bytes: The limit of all pictures together.

    Raises:
        UserError: The folder cannot be written, or it is not the folder of this journal.
    """

    def __init__(self, file: JournalFile, most_bytes: int) -> None:
        self.file, self.most_bytes = file, most_bytes
        self.folder = file.path.parent / PICTURES
        self._unnamed: dict[int, tuple[str, int]] = {}  # new files whose names are not in the journal yet, by row
        with explain_write_errors(self.folder, "give another --journal"):
            present = self._list_present()
            self.folder.mkdir(exist_ok=True)
            named = file.pictures()
            for name in present - named.keys():
                if _NAME.fullmatch(name):  # any other file is not the journal's
                    (self.folder / name).unlink()
        gone = named.keys() - present
        with file.transaction():
            for name in gone:
                file.set_picture(int(name.partition(".")[0]), None, None)
        self.bytes_used = sum(size for name, size in named.items() if name in present)

    def _list_present(self) -> set[str]:
        """Return the names of all files in the folder. Raises UserError if they cannot belong to this journal."""
        if not self.folder.is_dir():
            if count := len(self.file.pictures()):
                raise UserError(
                    f"{self.folder} is gone, and the journal names {format_count(count, 'picture')} in it: move it "
                    "here, or make an empty folder there if the pictures are gone for good"
                )
            return set()
        present = {path.name for path in self.folder.iterdir()}
        if present and not self.file.last():
            raise UserError(
                f"{self.folder} has files, such as {printable(min(present))}, but {self.file.path} has no images: give "
                "another --journal, or move that folder away"
            )
        return present

    def save(self, image: int, content: bytes, suffix: str) -> bool:
        """Write the picture of a row, and remove older ones where there is no room. `flush` writes its name.

        Args:
            image: The number of the row.
            content: The picture file.
            suffix: The suffix of its name, such as ".png".

        Returns:
            Whether the picture was written. False: the limit leaves no room for it.

        Raises:
            UserError: The file cannot be written.
        """
        if len(content) > self.most_bytes or not self._make_room(len(content)):
            return False
        path = self.folder / f"{image:09d}{suffix}"
        with explain_write_errors(path):
            try:
                with path.open("wb", buffering=0) as file:
                    file.write(content)
            except OSError:
                with suppress(OSError):
                    path.unlink()
                raise
        self._unnamed[image] = path.name, len(content)
        self.bytes_used += len(content)
        return True

    def flush(self) -> None:
        """Write the names of new pictures into the journal, all in one transaction, which takes as long as one."""
        if self._unnamed:
            with self.file.transaction():
                for image, (name, size) in self._unnamed.items():
                    self.file.set_picture(image, name, size)
            self._unnamed.clear()

    def forget_unnamed(self) -> int:
        """Remove the pictures whose names could not be written, and return how many there are."""
        count = len(self._unnamed)
        for name, size in self._unnamed.values():
            self.bytes_used -= size
            with suppress(OSError):
                (self.folder / name).unlink()
        self._unnamed.clear()
        return count

    def _make_room(self, size: int) -> bool:
        """Remove the oldest pictures of the least important kind until a new one has room. False: none can go."""
        if self.bytes_used + size <= self.most_bytes:
            return True
        self.flush()
        while self.bytes_used + size > self.most_bytes:
            oldest = self.file.picture_to_remove()
            if oldest is None:
                return False
            number, name, freed = oldest
            self.file.set_picture(number, None, None)
            self.bytes_used -= freed
            with suppress(OSError):  # if the file is not gone already, the next start removes it
                (self.folder / name).unlink()
        return True


def encode_picture(pixels: Pixels, file: bytes | None, compress: bool = True) -> tuple[bytes, str]:
    """Return a picture's content and suffix.

    Args:
        pixels: The image, (H, W, 3).
        file: The image file, which is the content. None: the content is a PNG of the pixels.
        compress: Whether the PNG is compressed. If not, it takes the bytes of the pixels, and hardly any time.
    """
    if file is not None:
        return file, f".{(Image.open(io.BytesIO(file)).format or 'bin').lower()}"
    return _encode_png(pixels, compress), ".png"


def _encode_png(pixels: Pixels, compress: bool) -> bytes:
    """Return a PNG of (H, W, 3), as a grey image if all three channels are equal.

    Pillow takes more than twice as long, because it chooses a filter for each row, and writes larger files of
    photographs. Here each row has the same filter, and zlib only looks for runs. Other threads run while zlib
    compresses.
    """
    height, width = pixels.shape[:2]
    grey = _is_grey(pixels[:1]) and _is_grey(pixels)  # the first row tells it of most images
    rows = (pixels[..., 0] if grey else pixels).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0], filtered[0, 1:] = _UP, rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    packer = zlib.compressobj(int(compress), zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    content = packer.compress(filtered.data) + packer.flush()
    header = struct.pack(">2I5B", width, height, 8, 0 if grey else 2, 0, 0, 0)  # 8 bits, grey or RGB
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_pack_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, content, b"")))


def _is_grey(pixels: Pixels) -> bool:
    """Whether all three channels of (H, W, 3) are equal."""
    return all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2))


def _pack_chunk(kind: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
