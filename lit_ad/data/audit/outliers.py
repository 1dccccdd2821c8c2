"""Find training images that are unlike the others, by the features of a pretrained backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.batch import Sample
from lit_ad.counts import first_few
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View

_NEIGHBOURS = 5  # an image's distance is the mean distance to this number of nearest training images
_FAR = 5.0  # the logarithm of a far image's distance is this number of deviations above the median


def list_outlier_warnings(train: Sequence[Sample], backbone: str, weights: str) -> list[str]:
    """Return a sentence for each category with images whose features are far from the others'.

    Args:
        train: Nominal samples.
        backbone: A timm model.
        weights: Source of its weights: hub, or a file.

    Raises:
        UserError: The backbone does not exist, or its weights cannot be loaded.
    """
    from lit_ad.teachers.backbone import Teacher  # imports timm, which takes seconds

    teacher = Teacher(backbone, _choose_middle_taps(backbone), weights)
    view = View(224).of_multiple(teacher.patch_size or 1)
    warnings = []
    for category in dict.fromkeys(sample.category for sample in train):
        images: list[Path] = []
        rows = []
        for sample in train:
            if sample.category == category:
                try:
                    pixels, _ = view(read_image(sample.image))
                except UserError:
                    continue  # the inspection tells of files that cannot be read
                rows.append(_average_features(teacher, pixels))
                images.append(sample.image)
        far = find_far_rows(np.array(rows)) if len(rows) > 2 * _NEIGHBOURS else np.zeros(0, np.int64)
        if len(far):
            warnings.append(
                f"training images unlike the others by {backbone}'s features, {len(far)} of {len(images)}: "
                f"{first_few([images[row] for row in far])}; check whether they are good"
            )
    return warnings


def _average_features(teacher: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean over positions of each channel of a teacher's features: (H, W, 3) -> (D,)."""
    import torch

    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
    with torch.inference_mode():
        levels = teacher(image)
    return np.concatenate([level.flatten(2).mean(dim=2)[0].numpy() for level in levels])


def find_far_rows(features: NDArray[Any]) -> NDArray[np.int64]:
    """Return the indices of rows of features (n, D) that are much farther from their nearest neighbours than other rows
    are, the farthest first."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    squares = np.square(scaled).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0))
    nearest = np.log(np.maximum(np.sort(distances, axis=1)[:, 1 : _NEIGHBOURS + 1].mean(axis=1), 1e-12))
    centre = np.median(nearest)
    deviation = 1.4826 * np.median(np.abs(nearest - centre))
    order = np.argsort(-nearest, kind="stable")
    far: NDArray[np.int64] = order[nearest[order] > centre + _FAR * max(float(deviation), 1e-3)]
    return far


def _choose_middle_taps(backbone: str) -> list[int]:
    """Return two taps in the middle of a backbone."""
    return [1, 2] if "vit" not in backbone and "deit" not in backbone else [3, 7]
