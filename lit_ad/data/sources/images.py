"""Images of which nothing is known, for predict."""

import os
from collections import Counter
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.sources.pages import by_page
from lit_ad.data.sources.source import Source, is_image, readable
from lit_ad.errors import UserError
from lit_ad.image.pixels import EXTENSIONS


class Images(Source):
    """Every image in a folder and the folders inside it, or one image file. Each page of a TIFF is an image.

    The first folder below the one given is an image's category, and the folders below that are its `defect`. A broken
    link is listed as well: predict has a row that says so.

    Args:
        root: The folder, or the file.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser()

    def samples(self) -> list[Sample]:
        with readable():
            if not self.root.exists():
                raise UserError(f"{self.root} does not exist: expected an image, or a folder of images")
            found = [self.root] if self.root.is_file() else files_in(self.root)
            images = [path for path in found if is_image(path) and (path.is_file() or path.is_symlink())]
        if not images:
            raise UserError(f"no image in {self.root}: expected {', '.join(EXTENSIONS)} files")
        folder = self.root if self.root.is_dir() else self.root.parent
        below = [(*image.parent.relative_to(folder).parts, "") for image in images]
        return by_page(
            Sample(image, -1, None, category, "/".join(deeper[:-1]), "predict")
            for image, (category, *deeper) in zip(images, below, strict=True)
        )

    def skipped(self) -> dict[str, int]:
        """How many files that are no images, or of a kind that is not read, lie there, by suffix."""
        with readable():
            found = [] if self.root.is_file() else files_in(self.root)
        return dict(Counter(path.suffix.lower() or path.name for path in found if not is_image(path)))


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and the folders inside it, sorted. Raises OSError on one that cannot be listed."""

    def fail(error: OSError) -> None:
        raise error

    return sorted(Path(inside, name) for inside, _, names in os.walk(folder, onerror=fail) for name in names)
