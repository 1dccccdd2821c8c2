"""Whether images fit the memory of the machine."""

import math
from collections.abc import Iterable
from contextlib import suppress

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, upright_size
from lit_ad.image.view import View
from lit_ad.machine import available_memory

CACHE_BYTES = 2**30  # what loading.cache_images takes of the RAM without being asked


def check_batches(view: View, size: Size, batch_size: int, eval_batch_size: int) -> None:
    """Raises UserError if images of this size, of which the network sees all or tiles, are too many at once.

    Args:
        view: What the network sees.
        size: Of the images, (H, W) pixels.
        batch_size: In training: images, or tiles where the view has them.
        eval_batch_size: Images in validation, test and predict.
    """
    if view.tile is None:
        _check_memory(max(batch_size, eval_batch_size), size)
    else:
        _check_memory(batch_size, (view.tile, view.tile))
        _check_memory(eval_batch_size, size, bytes_each=3)  # as uint8: it is their tiles that become float


def _check_memory(count: int, size: Size, bytes_each: int = 12) -> None:
    """Raises UserError if the pixels alone of `count` images at once do not fit the machine's memory.

    As 3 float32 numbers, which is what a network takes. What the teacher makes of them it looks at itself; what
    students and their gradients take on top is not counted.
    """
    needed, have = count * size[0] * size[1] * bytes_each, available_memory()
    if have is not None and needed > have:
        raise UserError(
            f"the pixels of {format_count(count, 'image')} of {size[0]}x{size[1]} at once take "
            f"{needed / 2**30:.1f} GiB, and this machine has {have / 2**30:.1f} GiB: lower "
            "model.view.image_size, data.batch_size or data.loading.eval_batch_size, or set model.view.tile"
        )


def largest_size(samples: Iterable[Sample]) -> Size:
    """Return height and width of the image with the most pixels; (0, 0) if no image can be read."""
    largest = (0, 0)
    for sample in samples:
        with suppress(UserError):  # that it cannot be read is told by who reads it
            largest = max(largest, upright_size(sample.image), key=math.prod)
    return largest


def is_worth_caching(samples: Iterable[Sample], view: View) -> bool:
    """Return whether images are small enough to be kept in RAM unasked: they are seen at one size or in tiles, and all
    take less than CACHE_BYTES."""
    if view.size is None and view.tile is None:
        return False
    return 3 * sum(math.prod(view.size or upright_size(sample.image)) for sample in samples) <= CACHE_BYTES
