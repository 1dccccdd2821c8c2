"""Which folders and files hold masks, where these and images lie side by side: by their names, or by their content."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from lit_ad.data.sources.listing import list_folder
from lit_ad.errors import UserError
from lit_ad.image.pixels import open_image, page_paths

OF_IMAGES = ("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "rgb")  # say no more than that
MASK = r"(?:masks?|gts?|ground[_ -]?truths?|truths?)"
_MASK_FOLDER = re.compile(rf"{MASK}|{MASK}[_ -](?P<before>.+)|(?P<after>.+)[_ -]{MASK}", re.IGNORECASE)
_ANNOTATIONS = ("label", "labels", "annotation", "annotations", "segmentation", "segmentations", "target", "targets")
_MASK_FILE = re.compile(r"(?P<stem>.+)_(?:mask|gt|ground_truth)", re.IGNORECASE)
_LOOKED_AT = 5  # images of a folder


def holds_masks(folder: Path, beside: Iterable[Path], photographs: bool) -> bool:
    """Whether a folder of images is one of masks.

    It is called so, beside a folder that is called otherwise: masks, ground_truth; dent_mask beside dent; labels beside
    images. Or all that is looked at has two colours.

    Args:
        folder: Holds images.
        beside: Other folders of images; those in the same folder count.
        photographs: The nominal images have more than two colours.
    """
    names = {other.name.lower() for other in beside if other.parent == folder.parent and other.name != folder.name}
    named = _MASK_FOLDER.fullmatch(folder.name)
    if named and names:
        rest = named["before"] or named["after"]
        if rest is None or rest.lower() in names:
            return True
    if folder.name.lower() in _ANNOTATIONS and names & set(OF_IMAGES):
        return True
    return photographs and most_colours(folder) == 2


def most_colours(folder: Path) -> int:
    """The most colours that one of the first images in a folder has, as `count_colours` has them; 0 without images."""
    most = 0
    for image in list_folder(folder).images[:_LOOKED_AT] if folder.is_dir() else ():
        with suppress(UserError):  # whoever needs the image tells that it cannot be read
            most = max(most, count_colours(image))
        if most > 2:
            break
    return most


def count_colours(path: Path) -> int:
    """1, 2, or 3 for all that have more. Of a TIFF of several pages, those of the first page."""
    image = open_image(page_paths(path)[0])
    values = np.asarray(image.convert("L") if image.mode == "1" else image)  # Pillow's booleans are 255 where true
    colours = values.reshape(values.shape[0] * values.shape[1], -1)  # (H * W, C)
    other = colours[(colours != colours[0]).any(axis=1)]
    return 1 if not len(other) else 2 if (other == other[0]).all() else 3


def masks_among(images: Sequence[Path]) -> dict[Path, Path]:
    """Image -> its mask, for masks that lie among images and are called NAME_mask, where the image is NAME."""
    stems = {image.stem: image for image in images}
    named = {mask: _MASK_FILE.fullmatch(mask.stem) for mask in images}
    return {stems[name["stem"]]: mask for mask, name in named.items() if name and name["stem"] in stems}
