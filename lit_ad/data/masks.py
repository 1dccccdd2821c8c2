"""Ground truth: where an image is anomalous."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.batch import Sample
from lit_ad.errors import UserError
from lit_ad.pixels import Size, open_image, upright_size


def read_mask(path: Path, above: int | None = None) -> NDArray[np.bool_]:
    """A mask file -> (H, W), true where its values, of a palette the indices, are `above` a data set's own limit.

    Without one, true where it is not black; in a JPEG, whose edges are smeared, where it is bright.
    """
    image = open_image(path)
    threshold = above if above is not None else 127 if image.format == "JPEG" else 0
    if image.mode == "P" and above is None:
        image = image.convert("RGBA")
    values = np.asarray(image)
    if values.ndim == 3:
        colours = {"LA": 1, "RGBA": 3}.get(image.mode, values.shape[2])
        values = values[..., :colours].max(axis=2)
    return values > threshold


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
        if sample.mask is not None:
            check_size(sample, upright_size(sample.mask), upright_size(sample.image))


def check_size(sample: Sample, mask: Size, image: Size) -> None:
    """Raises UserError if the two sizes differ."""
    if mask != image:
        raise UserError(
            f"mask of another size: {sample.mask} is {mask[0]}x{mask[1]} (height x width), but its image "
            f"{sample.image} is {image[0]}x{image[1]}, turned upright"
        )
