"""Recognise masks that lie beside images, by the names or the content of folders and files."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from lit_ad.data.sources.listing import list_folder
from lit_ad.errors import UserError
from lit_ad.image.pixels import list_page_paths, open_image

OF_IMAGES = ("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "rgb")  # folders of any images
MASK = r"(?:masks?|gts?|ground[_ -]?truths?|truths?)"
_MASK_FOLDER = re.compile(rf"{MASK}|{MASK}[_ -](?P<before>.+)|(?P<after>.+)[_ -]{MASK}", re.IGNORECASE)
_ANNOTATIONS = ("label", "labels", "annotation", "annotations", "segmentation", "segmentations", "target", "targets")
_MASK_FILE = re.compile(r"(?P<stem>.+)_(?:mask|gt|ground_truth)", re.IGNORECASE)
_LOOKED_AT = 5  # number of a folder's images whose colours are counted


def holds_masks(folder: Path, beside: Iterable[Path], photographs: bool) -> bool:
    """Return whether the images in a folder are masks.

    They are if the folder's name says so and a folder beside it has another name: masks or ground_truth beside any
    folder, dent_mask beside dent, labels beside images. They are also if the folder's first images have two colours,
    but nominal images have more.

    Args:
        folder: A folder of images.
        beside: Other folders of images. Only those with the same parent are used.
        photographs: Whether nominal images have more than two colours.
    """
    names = {other.name.lower() for other in beside if other.parent == folder.parent and other.name != folder.name}
    named = _MASK_FOLDER.fullmatch(folder.name)
    if named and names:
        rest = named["before"] or named["after"]
        if rest is None or rest.lower() in names:
            return True
    if folder.name.lower() in _ANNOTATIONS and names & set(OF_IMAGES):
        return True
    return photographs and count_most_colours(folder) == 2


def count_most_colours(folder: Path) -> int:
    """Return the most colours of a folder's first images, counted by `count_colours`; 0 without images."""
    most = 0
    for image in list_folder(folder).images[:_LOOKED_AT] if folder.is_dir() else ():
        with suppress(UserError):  # a later reader of the image raises the error
            most = max(most, count_colours(image))
        if most > 2:
            break
    return most


def count_colours(path: Path) -> int:
    """Return the number of an image's colours: 1, 2, or 3 for any larger number. Of a TIFF, the first page is read."""
    image = open_image(list_page_paths(path)[0])
    values = np.asarray(image.convert("L") if image.mode == "1" else image)  # Pillow stores True as 255
    colours = values.reshape(values.shape[0] * values.shape[1], -1)  # (H * W, C)
    other = colours[(colours != colours[0]).any(axis=1)]
    return 1 if not len(other) else 2 if (other == other[0]).all() else 3


def find_masks_among(images: Sequence[Path]) -> dict[Path, Path]:
    """Return the mask of each image, for masks NAME_mask that lie in the folder of the image NAME."""
    stems = {image.stem: image for image in images}
    named = {mask: _MASK_FILE.fullmatch(mask.stem) for mask in images}
    return {stems[name["stem"]]: mask for mask, name in named.items() if name and name["stem"] in stems}
