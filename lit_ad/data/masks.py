"""Read masks, the ground truth of pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.batch import Sample
from lit_ad.data.sources.source import list_images
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, open_image, read_upright_size

RESIZE = "resize it without smoothing, or draw it again; or remove it, and its image has no mask"
_LOSSY = ("JPEG", "MPO", "AVIF")  # MPO: a JPEG of several pictures


def list_mask_files(mask: Path | None) -> list[Path]:
    """Return the files of a sample's mask: the file itself; the files of a folder, each with one defect; none for
    None."""
    if mask is None or not mask.is_dir():
        return [] if mask is None else [mask]
    return list_images(mask)


def read_mask(path: Path, above: int | None = None) -> NDArray[np.bool_]:
    """Read a mask: (H, W), true where it marks a defect. A folder is the union of its files.

    Args:
        path: A mask file, or a folder of them.
        above: Values above this limit mark a defect; of a palette image, its indices are the values. None: pixels
            that are not black mark a defect; in a JPEG or AVIF, whose edges are smeared, only bright pixels do.

    Raises:
        UserError: A file cannot be read, or the files of a folder have different sizes.
    """
    if path.is_dir():
        return _read_folder(path, above)
    image = open_image(path)
    threshold = above if above is not None else 127 if image.format in _LOSSY else 0
    if image.mode == "P" and above is None:
        image = image.convert("RGBA")
    values = np.asarray(image)
    if values.ndim == 3:
        colours = {"LA": 1, "RGBA": 3}.get(image.mode, values.shape[2])
        values = values[..., :colours].max(axis=2)
    return values > threshold


def _read_folder(folder: Path, above: int | None = None) -> NDArray[np.bool_]:
    """Return the union of the masks in a folder, (H, W)."""
    files = list_mask_files(folder)
    union = read_mask(files[0], above).copy()
    for file in files[1:]:
        mask = read_mask(file, above)
        if mask.shape != union.shape:
            raise UserError(
                f"masks of one image differ in size: {files[0]} is {union.shape[0]}x{union.shape[1]} (height x width), "
                f"but {file} is {mask.shape[0]}x{mask.shape[1]}: save both at the size of the image"
            )
        union |= mask
    return union


def read_truth(sample: Sample, size: Size) -> Tensor | None:
    """Return where an image is anomalous, (H0, W0) bool; None if that is unknown.

    Args:
        sample: The image's sample.
        size: The image's original size.

    Raises:
        UserError: The mask cannot be read, or has another size than its image.
    """
    if sample.label == 0:
        return torch.zeros(size, dtype=torch.bool)
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask, sample.mask_above)
    check_size(sample, (mask.shape[0], mask.shape[1]), size)
    return torch.from_numpy(mask)


def check_masks(samples: Sequence[Sample]) -> None:
    """Raise UserError if a mask has another size than its image. Only headers are read."""
    for sample in samples:
        for file in list_mask_files(sample.mask):
            check_size(sample._replace(mask=file), read_upright_size(file), read_upright_size(sample.image))


def check_size(sample: Sample, mask: Size, image: Size) -> None:
    """Raise UserError if the sizes of a sample's mask and image differ."""
    if mask != image:
        raise UserError(
            f"mask of another size: {sample.mask} is {mask[0]}x{mask[1]} (height x width), but its image "
            f"{sample.image} is {image[0]}x{image[1]}, turned upright: {RESIZE}"
        )
