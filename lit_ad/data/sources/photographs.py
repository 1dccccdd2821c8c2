"""Photographs of anything: to distil a teacher from, and for students that must not learn them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import Listing, frame_remarks, list_tree
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import EXTENSIONS, Pixels, Size, page_paths, read_image


class Photographs(Source):
    """Every image in a folder and the folders inside it, to train on. There is nothing to test on.

    Args:
        root: The folder, such as ImageNet's train/.
    """

    def __init__(self, root: Path) -> None:
        self.root = resolve_path(root)

    def samples(self) -> list[Sample]:
        return [Sample(image, 0) for image in _list_below(self.root).images]

    def remarks(self) -> list[str]:
        """The links that are not followed."""
        return Listing(repeated=_list_below(self.root).repeated).remarks()


class Unrelated:
    """Any image of a folder, and of the folders inside it, drawn from a key: twice the size, cut to its middle, and
    three in ten of them grey, as EfficientAD has it.

    Args:
        folder: They are listed once, and read when drawn.

    Raises:
        UserError: No such folder, or no image in it.
    """

    def __init__(self, folder: Path) -> None:
        listing = _list_below(resolve_path(folder))
        self.remarks = listing.remarks() + frame_remarks(listing.images)  # what is passed over, a sentence each
        self.images = [page for file in listing.images for page in page_paths(file)]

    def __call__(self, size: Size, key: Sequence[int]) -> Pixels:
        """(height, width) -> (H, W, 3). The same key gives the same pixels in any process."""
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
    """What lies in a folder and in the folders inside it. Raises UserError if there is no image."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: it should hold photographs")
    listing = list_tree(folder)
    if not listing.images:
        raise UserError(f"no image in {folder}, nor in the folders inside it: expected {', '.join(EXTENSIONS)} files")
    return listing
