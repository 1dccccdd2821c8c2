"""Unlabelled images of a folder, for predict and for other commands that take a folder."""

from functools import cached_property
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import Listing, is_image, list_frame_remarks, list_tree, os_errors_as_user_errors
from lit_ad.data.sources.pages import split_pages
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import EXTENSIONS
from lit_ad.names import tell


class Images(Source):
    """All images in a folder and the folders inside it, including linked ones; or one image file. Each page of a TIFF
    is an image.

    An image's category is the first folder below `root`, its `defect` the path of the folders below that. A broken link
    is also listed, so that predict has a row with its error.

    Args:
        root: The folder, or the file.
    """

    def __init__(self, root: Path) -> None:
        self.root = resolve_path(root)

    def samples(self) -> list[Sample]:
        images = sorted(self._listing.images + [path for path in self._listing.broken if is_image(path)])
        if not images:
            raise UserError(f"no image in {self.root}: expected {', '.join(EXTENSIONS)} files")
        folder = self.root if self.root.is_dir() else self.root.parent
        below = [(*image.parent.relative_to(folder).parts, "") for image in images]
        return split_pages(
            Sample(image, -1, None, category, "/".join(deeper[:-1]), "predict")
            for image, (category, *deeper) in zip(images, below, strict=True)
        )

    def remarks(self) -> list[str]:
        """Return sentences about skipped files, and about files of which only the first frame is read."""
        return self._listing.remarks() + list_frame_remarks(self._listing.images)

    @cached_property
    def _listing(self) -> Listing:
        with os_errors_as_user_errors():
            if not self.root.exists():
                raise UserError(f"{self.root} does not exist: expected an image, or a folder of images")
            if self.root.is_dir():
                return list_tree(self.root)
            known = self.root.suffix.lower() in EXTENSIONS  # a hidden file is read if the user names it
            return Listing(images=[self.root]) if known else Listing(other=[self.root])


def list_and_tell(root: Path) -> list[Sample]:
    """Return the images of a command's folder, and print what is skipped there."""
    source = Images(root)
    samples = source.samples()
    for remark in source.remarks():
        tell(f"In {root}: {remark}")
    return samples
