"""Images of which nothing is known, for predict and for the commands that are given a folder."""

from functools import cached_property
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import Listing, frame_remarks, is_image, list_tree, readable
from lit_ad.data.sources.pages import by_page
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import EXTENSIONS
from lit_ad.names import tell


class Images(Source):
    """Every image in a folder and the folders inside it, linked ones too, or one image file. Each page of a TIFF is an
    image.

    The first folder below the one given is an image's category, and the folders below that are its `defect`. A broken
    link is listed as well: predict has a row that says so.

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
        return by_page(
            Sample(image, -1, None, category, "/".join(deeper[:-1]), "predict")
            for image, (category, *deeper) in zip(images, below, strict=True)
        )

    def remarks(self) -> list[str]:
        """What is passed over, and the files of which the first frame is read."""
        return self._listing.remarks() + frame_remarks(self._listing.images)

    @cached_property
    def _listing(self) -> Listing:
        with readable():
            if not self.root.exists():
                raise UserError(f"{self.root} does not exist: expected an image, or a folder of images")
            if self.root.is_dir():
                return list_tree(self.root)
            known = self.root.suffix.lower() in EXTENSIONS  # a hidden file that is asked for by its name is read
            return Listing(images=[self.root]) if known else Listing(other=[self.root])


def list_and_tell(root: Path) -> list[Sample]:
    """The images of a folder that a command was given; what is passed over there is printed."""
    source = Images(root)
    samples = source.samples()
    for remark in source.remarks():
        tell(f"In {root}: {remark}")
    return samples
