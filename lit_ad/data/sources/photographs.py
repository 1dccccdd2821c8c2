"""Photographs of any content: to distil a teacher, and as images that a student must not learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import Listing, list_frame_remarks, list_tree
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import EXTENSIONS, Pixels, Size, list_page_paths, read_image


class Photographs(Source):
    """All images in a folder and the folders inside it, for training. There is no test.

    Args:
        root: The folder, such as ImageNet's train/.
    """

    def __init__(self, root: Path) -> None:
        self.root = resolve_path(root)

    def samples(self) -> list[Sample]:
        return [Sample(image, 0) for image in _list_below(self.root).images]

    def remarks(self) -> list[str]:
        """Return a sentence about links that are not followed."""
        return Listing(repeated=_list_below(self.root).repeated).remarks()


class Unrelated:
    """Draws random images from a folder and the folders inside it.

    As in EfficientAD, an image is resized to twice the wanted size and cut to its middle; three in ten are grey.

    Args:
        folder: The folder. It is listed once; an image is read when it is drawn.

    Raises:
        UserError: The folder does not exist, or has no image.
    """

    def __init__(self, folder: Path) -> None:
        listing = _list_below(resolve_path(folder))
        self.remarks = listing.remarks() + list_frame_remarks(listing.images)  # sentences about skipped files
        self.images = [page for file in listing.images for page in list_page_paths(file)]

    def __call__(self, size: Size, key: Sequence[int]) -> Pixels:
        """Return an image (H, W, 3) of the wanted size (H, W). The same key gives the same pixels in every process."""
        height, width = size
        generator = np.random.default_rng([*key, len(self.images)])
        image = Image.fromarray(read_image(self.images[int(generator.integers(len(self.images)))]))
        image = image.resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
        left, top = width // 2, height // 2
        image = image.crop((left, top, left + width, top + height))
        if generator.random() < 0.3:
            image = image.convert("L").convert("RGB")
        return np.array(image)


def _list_below(folder: Path) -> Listing:
    """List a folder and the folders inside it. Raises UserError if there is no image."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: it should hold photographs")
    listing = list_tree(folder)
    if not listing.images:
        raise UserError(f"no image in {folder}, nor in the folders inside it: expected {', '.join(EXTENSIONS)} files")
    return listing
