"""Pictures of judged images, in files beside the journal, with a limit on their total size."""

import io
from contextlib import suppress

from PIL import Image

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.files import atomic_write, explain_write_errors
from lit_ad.image.pixels import Pixels

_FOLDER = "pictures"


class Pictures:
    """The files of DIR/pictures.

    If a new picture would exceed the limit, older ones are removed: first the oldest nominal images of the random
    sample, then the oldest borderline images, then the oldest anomalous ones. Labelled pictures stay.

    Args:
        file: The journal, which has the name of each picture. Files that it does not name are left over from a killed
            process, and are removed at the start.
        most_bytes: The limit of all pictures together.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, file: JournalFile, most_bytes: int) -> None:
        self.file, self.most_bytes = file, most_bytes
        self.folder = file.path.parent / _FOLDER
        named = file.pictures()
        self.bytes_used = sum(named.values())
        with explain_write_errors(self.folder, "give another --journal"):
            self.folder.mkdir(exist_ok=True)
            for path in self.folder.iterdir():
                if path.name not in named:
                    path.unlink()

    def save(self, image: int, content: bytes, suffix: str) -> bool:
        """Write the picture of a row, and remove older ones where there is no room.

        Args:
            image: The number of the row.
            content: The picture file.
            suffix: The suffix of its name, such as ".png".

        Returns:
            Whether the picture was written. False: the limit leaves no room for it.

        Raises:
            UserError: The file cannot be written.
        """
        if len(content) > self.most_bytes:
            return False
        while self.bytes_used + len(content) > self.most_bytes:
            oldest = self.file.picture_to_remove()
            if oldest is None:
                return False
            number, name, size = oldest
            self.file.set_picture(number, None, None)
            self.bytes_used -= size
            with suppress(OSError):  # if the file is not gone already, the next start removes it
                (self.folder / name).unlink()
        name = f"{image:09d}{suffix}"
        with atomic_write(self.folder / name) as temporary:
            temporary.write_bytes(content)
        self.file.set_picture(image, name, len(content))
        self.bytes_used += len(content)
        return True


def encode_picture(pixels: Pixels, file: bytes | None) -> tuple[bytes, str]:
    """Return a picture's content and suffix: the image file unchanged, or without one a PNG of the pixels (H, W, 3)."""
    if file is not None:
        return file, f".{(Image.open(io.BytesIO(file)).format or 'bin').lower()}"
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, format="PNG", compress_level=1)
    return picture.getvalue(), ".png"
