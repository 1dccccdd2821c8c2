"""Check whether images fit into the memory of the machine."""

import math
from collections.abc import Iterable
from contextlib import suppress

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, read_upright_size
from lit_ad.image.view import View
from lit_ad.machine import available_memory

CACHE_BYTES = 2**30  # most RAM that loading.cache_images uses by default


def check_batches(view: View, size: Size, batch_size: int, eval_batch_size: int) -> None:
    """Raise UserError if a batch of images of this size does not fit into the machine's memory.

    Args:
        view: How images become network inputs.
        size: Size of the images, (H, W) pixels.
        batch_size: Images in a training batch, or tiles if the view has some.
        eval_batch_size: Images in a batch of validation, test and predict.
    """
    if view.tile is None:
        _check_memory(max(batch_size, eval_batch_size), size)
    else:
        _check_memory(batch_size, (view.tile, view.tile))
        _check_memory(eval_batch_size, size, bytes_each=3)  # uint8: only their tiles become float32


def _check_memory(count: int, size: Size, bytes_each: int = 12) -> None:
    """Raise UserError if the pixels of `count` images do not fit into the machine's memory.

    A pixel has `bytes_each` bytes, by default 3 float32 numbers. The teacher checks the memory for its features itself.
    Students and gradients need more, which is not counted.
    """
    needed, available = count * size[0] * size[1] * bytes_each, available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"the pixels of {format_count(count, 'image')} of {size[0]}x{size[1]} at once take "
            f"{needed / 2**30:.1f} GiB, and this machine has {available / 2**30:.1f} GiB: lower "
            "model.view.image_size, data.batch_size or data.loading.eval_batch_size, or set model.view.tile"
        )


def largest_size(samples: Iterable[Sample]) -> Size:
    """Return height and width of the image with the most pixels; (0, 0) if no image can be read."""
    largest = (0, 0)
    for sample in samples:
        with suppress(UserError):  # the dataset raises the error when it reads the image
            largest = max(largest, read_upright_size(sample.image), key=math.prod)
    return largest


def is_worth_caching(samples: Iterable[Sample], view: View) -> bool:
    """Return whether images are kept in RAM by default: the view has a size or tiles, and all images need at most
    CACHE_BYTES."""
    if view.size is None and view.tile is None:
        return False
    return 3 * sum(math.prod(view.size or read_upright_size(sample.image)) for sample in samples) <= CACHE_BYTES
