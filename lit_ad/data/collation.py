"""Join items to batches."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_ad.batch import Batch
from lit_ad.errors import UserError


def collate(items: list[Batch]) -> Batch:
    """Join B batches of one item to one batch of B.

    Smaller images are padded by zeros at the bottom and right. No network sees these zeros: see
    `Batch.same_size_parts`.
    """
    pixels = [item.pixels for item in items if item.pixels is not None]
    canvases = [(image.shape[2], image.shape[3]) for image in pixels]
    alike = len(set(canvases)) < 2
    if not alike:
        height, width = (max(sides) for sides in zip(*canvases, strict=True))
        pixels = [pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(pixels, canvases, strict=True)]
    features = [item.features for item in items if item.features is not None]
    others = {
        name: [value for item in items if (value := getattr(item, name)) is not None]
        for name in ("unrelated", "corrupted", "corruption")
    }
    return Batch(
        pixels=join(pixels) if pixels else None,
        index=torch.cat([item.index for item in items]),
        samples=[item.samples[0] for item in items],
        sizes=[item.sizes[0] for item in items],
        boxes=[item.boxes[0] for item in items],
        canvases=None if alike else canvases,
        masks=[item.masks[0] if item.masks else None for item in items] if any(item.masks for item in items) else None,
        features=[join(list(level)) for level in zip(*features, strict=True)] if features else None,
        **{name: join(values) if values else None for name, values in others.items()},
    )


def collate_equal(items: list[Batch]) -> Batch:
    """Join items to a batch for training. Raises UserError if the images have different sizes."""
    sizes = {tuple(item.pixels.shape[2:]): item.samples[0].image for item in items if item.pixels is not None}
    if len(sizes) > 1:
        (path, first), (two, second), *_ = sizes.items()
        raise UserError(
            f"training images of different sizes, {path} {first} and {two} {second}: set model.view.image_size, or "
            "model.view.tile to train on tiles"
        )
    return collate(items)


def join(rows: list[Tensor]) -> Tensor:
    """Concatenate rows, B x (1, ...) -> (B, ...). A single row, which may be large, is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)
