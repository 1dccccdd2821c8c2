"""Further checks of samples and masks, beyond the inspection before a training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_ad.batch import Sample
from lit_ad.counts import first_few, format_times
from lit_ad.data.masks import RESIZE, list_mask_files
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from lit_ad.image.pixels import open_image, read_upright_size

_GREYS = 16  # a mask with more distinct values has antialiased edges


def list_sample_errors(samples: Sequence[Sample]) -> list[str]:
    """Return sentences about errors that a training refuses: samples that contradict each other, and masks of another
    size than their images."""
    errors = []
    try:
        check_samples(samples)
    except UserError as error:
        errors.append(str(error))
    sizes = []
    for sample in samples:
        for file in list_mask_files(sample.mask):
            try:
                mask, image = read_upright_size(file), read_upright_size(sample.image)
            except UserError:
                continue  # the inspection reports files that cannot be read
            if mask != image:
                sizes.append(f"{file} ({mask[0]}x{mask[1]}, its image {image[0]}x{image[1]})")
    if sizes:
        errors.append(
            f"masks of another size than their image, {format_times(len(sizes))} (height x width): {first_few(sizes)}; "
            f"of each, {RESIZE}"
        )
    return errors


def list_mask_value_warnings(masks: Sequence[Path]) -> list[str]:
    """Return sentences about masks with more than two values."""
    grey, classes = [], []
    for path in masks:
        try:
            image = open_image(path)
        except UserError:
            continue  # the inspection reports files that cannot be read
        values = np.unique(np.asarray(image if image.mode[0] in "1LPIF" else image.convert("L")))
        if image.format == "JPEG" or len(values) > _GREYS:
            grey.append(path)
        elif len(values) > 2:
            classes.append(path)
    warnings = []
    if grey:
        warnings.append(
            f"masks with grey edges, antialiased or of JPEG, {format_times(len(grey))}: {first_few(grey)}; save them "
            "as PNG of two values"
        )
    if classes:
        warnings.append(
            f"masks of several values, {format_times(len(classes))}: {first_few(classes)}; all but 0 count as defect"
        )
    return warnings
