"""Ground truth: where an image is anomalous."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.batch import Sample
from lit_ad.data.sources.source import list_images
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, open_image, upright_size

RESIZE = "resize it without smoothing, or draw it anew; or remove it, and its image counts without a mask"
_LOSSY = ("JPEG", "MPO", "AVIF")  # MPO: a JPEG of several pictures


def mask_files(mask: Path | None) -> list[Path]:
    """The files of a sample's mask: itself, or those of a folder, each of which marks one defect; none of None."""
    if mask is None or not mask.is_dir():
        return [] if mask is None else [mask]
    return list_images(mask)


def read_mask(path: Path, above: int | None = None) -> NDArray[np.bool_]:
    """A mask file -> (H, W), true where its values, of a palette the indices, are `above` a data set's own limit.

    Without one, true where it is not black; in a JPEG or AVIF, whose edges are smeared, where it is bright. Of a
    folder, where one of its files is so. Raises UserError on files of several sizes.
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
    """Where one of the masks in a folder marks a defect: (H, W)."""
    files = mask_files(folder)
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
    """(H0, W0) bool: where the image is anomalous. None if that is not known. Raises UserError on another size."""
    if sample.label == 0:
        return torch.zeros(size, dtype=torch.bool)
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask, sample.mask_above)
    check_size(sample, (mask.shape[0], mask.shape[1]), size)
    return torch.from_numpy(mask)


def check_masks(samples: Sequence[Sample]) -> None:
    """Raises UserError on a mask of another size than its image's. Reads headers only."""
    for sample in samples:
        for file in mask_files(sample.mask):
            check_size(sample._replace(mask=file), upright_size(file), upright_size(sample.image))


def check_size(sample: Sample, mask: Size, image: Size) -> None:
    """Raises UserError if the two sizes differ."""
    if mask != image:
        raise UserError(
            f"mask of another size: {sample.mask} is {mask[0]}x{mask[1]} (height x width), but its image "
            f"{sample.image} is {image[0]}x{image[1]}, turned upright: {RESIZE}"
        )
