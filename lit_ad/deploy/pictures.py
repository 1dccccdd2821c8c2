"""Pictures of judged images beside the journal, bounded in bytes."""

import io
from contextlib import suppress

from PIL import Image

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.files import atomic_write, writing
from lit_ad.image.pixels import Pixels

FOLDER = "pictures"


class Pictures:
    """The files of DIR/pictures.

    Where a new one would exceed the bound, others go first: the oldest of the random sample of nominal images, then the
    oldest borderline ones, then the oldest anomalous ones; those that somebody has labelled stay.

    Args:
        file: The journal that names them. What it does not name, as after a kill between the two, is removed.
        most_bytes: The bound of all together.
    """

    def __init__(self, file: JournalFile, most_bytes: int) -> None:
        self.file, self.most_bytes = file, most_bytes
        self.folder = file.path.parent / FOLDER
        named = file.pictures()
        self.bytes_used = sum(named.values())
        with writing(self.folder, "give another --journal"):
            self.folder.mkdir(exist_ok=True)
            for path in self.folder.iterdir():
                if path.name not in named:
                    path.unlink()

    def save(self, image: int, content: bytes, suffix: str) -> bool:
        """Write the picture of a row. Return whether it was; not where the bound leaves no room for it.

        Raises UserError if it cannot be written.
        """
        if len(content) > self.most_bytes:
            return False
        while self.bytes_used + len(content) > self.most_bytes:
            going = self.file.first_to_go()
            if going is None:
                return False
            number, name, size = going
            self.file.note_picture(number, None, None)
            self.bytes_used -= size
            with suppress(OSError):  # somebody has removed it; else the next start does
                (self.folder / name).unlink()
        name = f"{image:09d}{suffix}"
        with atomic_write(self.folder / name) as temporary:
            temporary.write_bytes(content)
        self.file.note_picture(image, name, len(content))
        self.bytes_used += len(content)
        return True


def encoded(pixels: Pixels, file: bytes | None) -> tuple[bytes, str]:
    """A picture's content and suffix: the image file as it came, or a PNG of the pixels (H, W, 3)."""
    if file is not None:
        return file, f".{(Image.open(io.BytesIO(file)).format or 'bin').lower()}"
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, format="PNG", compress_level=1)
    return made.getvalue(), ".png"
