"""Reads samples into batches: files to RGB uint8 at the network's size, masks at their own."""

from collections.abc import Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lit_ad.batch import Batch, Box, Size, Tiling
from lit_ad.data.sample import Sample
from lit_ad.data.transforms import Augment, Pixels, Resize, fill
from lit_ad.tiling import Tiles


class Features(Sized, Protocol):
    """The teacher's features of each item: (1, C, h, w) of each tap."""

    def __getitem__(self, index: int) -> list[Tensor]: ...


class AnomalyDataset(Dataset[Batch]):
    """Each item is a Batch of one image, or of one tile of `tiles`, uint8. Masks are read for test samples alone.

    With `features` from the cache, an item has those as well, and no pixels where `pixels` is false.
    """

    def __init__(self, samples: Sequence[Sample], resize: Resize, augment: Augment | None = None, seed: int = 0):
        self.samples, self.resize, self.augment, self.seed = list(samples), resize, augment, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # augmentations differ by epoch, in workers too
        self.cache: list[tuple[Pixels, Box, Size]] | None = None
        self.last: tuple[int, tuple[Pixels, Box, Size]] | None = None  # tiles in order: each image is read once
        self.tiles: Tiles | None = None
        self.features: Features | None = None
        self.pixels = True

    def __len__(self) -> int:
        return len(self.samples) if self.tiles is None else len(self.tiles)

    def __getitem__(self, index: int) -> Batch:
        number = index if self.tiles is None else self.tiles.image(index)
        sample = self.samples[number]
        image: Pixels | None = None
        box, size = (0, 0, 0, 0), (0, 0)
        if self.pixels:
            image, box, size = self._image(number)
            key = (self.seed, int(self.epoch))
            if self.tiles is not None:
                top, left, bottom, right = box
                content = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)
                image = self.tiles.cut(content, index, key).permute(1, 2, 0).numpy()
                box = (0, 0, *image.shape[:2])
            if self.augment is not None:
                shape, image = image.shape, self.augment(image, (*key, index))
                box = box if image.shape == shape else (0, 0, *image.shape[:2])
        return Batch(
            # Channels last, as the file has them: no copy here, and the layout that convolutions are fastest with.
            image=None if image is None else torch.from_numpy(image).permute(2, 0, 1)[None],
            label=torch.tensor([sample.label]),
            index=torch.tensor([index]),
            path=[str(sample.image)],
            category=[sample.category],
            defect=[sample.defect],
            size=[size],
            box=[box],
            mask=[read_truth(sample, size)] if sample.split == "test" else None,
            features=None if self.features is None else self.features[index],
        )

    def fill_cache(self, threads: int) -> None:
        """Decode and resize every image once, 3 bytes a pixel of the network's size. Workers forked later share it."""
        with ThreadPoolExecutor(threads) as pool:
            images = pool.map(self._read, self.samples)
            self.cache = list(
                tqdm(images, "Reading images", len(self.samples), leave=False, disable=len(self.samples) < 100)
            )

    def _image(self, number: int) -> tuple[Pixels, Box, Size]:
        if self.cache is not None:
            image, box, size = self.cache[number]
            return (image.copy() if self.tiles is None else image), box, size  # nobody writes to the cache
        if self.tiles is None:
            return self._read(self.samples[number])
        if self.last is None or self.last[0] != number:
            self.last = (number, self._read(self.samples[number]))
        return self.last[1]

    def _read(self, sample: Sample) -> tuple[Pixels, Box, Size]:
        image = read_image(sample.image)
        size = (image.shape[0], image.shape[1])
        image, box = self.resize(image)
        return np.require(image, requirements=["C", "W"]), box, size


def read_image(path: Path) -> Pixels:
    """Any image file -> (H, W, 3) uint8 RGB, turned upright as its EXIF says. Raises ValueError that names the file.

    16-bit values are divided by 257, so that 0..65535 becomes 0..255; float images must lie in [0, 1]. Transparency is
    dropped, which leaves the colours as stored; CMYK is converted without colour profile. Of several pages, the first.
    """
    image = open_image(path)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        top = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= top):  # so that NaN fails
            raise ValueError(
                f"{path} has values from {values.min()} to {values.max()}: integer images must lie in 0..65535 and "
                "float images in 0..1; convert it"
            )
        grey = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{path} has pixels of kind {image.mode}, which have no RGB: convert it") from error


def upright_size(path: Path) -> Size:
    """Height and width of an image file, turned upright, from its header. Raises ValueError as `open_image` does."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}; replace or remove it") from error
    return (width, height) if turned else (height, width)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file -> (H, W), true where it is not black; in a JPEG, whose edges are smeared, where it is bright."""
    image = open_image(path)
    threshold = 127 if image.format == "JPEG" else 0
    if image.mode == "P":
        image = image.convert("RGBA")
    values = np.asarray(image)
    if values.ndim == 3:
        colours = {"LA": 1, "RGBA": 3}.get(image.mode, values.shape[2])
        values = values[..., :colours].max(axis=2)
    return values > threshold


def read_truth(sample: Sample, size: Size) -> Tensor | None:
    """(H0, W0) bool: where the image is anomalous. None if that is not known. Raises ValueError on another size."""
    if sample.label == 0:
        return torch.zeros(size, dtype=torch.bool)
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask)
    check_mask(sample, (mask.shape[0], mask.shape[1]), size)
    return torch.from_numpy(mask)


def check_masks(samples: Sequence[Sample]) -> None:
    """Raises ValueError on a mask of another size than its image's. Reads headers only."""
    for sample in samples:
        if sample.mask is not None:
            check_mask(sample, upright_size(sample.mask), upright_size(sample.image))


def check_mask(sample: Sample, mask: Size, image: Size) -> None:
    """Raises ValueError if the two sizes differ."""
    if mask != image:
        raise ValueError(
            f"mask of another size: {sample.mask} is {mask[0]}x{mask[1]} (height x width), but its image "
            f"{sample.image} is {image[0]}x{image[1]}, turned upright"
        )


def open_image(path: Path) -> Image.Image:
    """A decoded image, turned upright. Raises ValueError if it cannot be read to its end."""
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image is one too many
    except Exception as error:  # decoders raise all sorts: OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"cannot read {path}: {error}; replace or remove it") from error
    return image


def collate(items: list[Batch], tiling: Tiling | None = None) -> Batch:
    """B batches of one -> one batch of B, smaller images filled up at the bottom and right by reflection."""
    images = [item.image for item in items if item.image is not None]
    if any(image.shape != images[0].shape for image in images):
        canvas = (max(image.shape[2] for image in images), max(image.shape[3] for image in images))
        filled = [fill(image[0].permute(1, 2, 0).numpy(), canvas) for image in images]
        images = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in filled]
    features = [item.features for item in items if item.features is not None]
    return Batch(
        image=join(images) if images else None,
        label=torch.cat([item.label for item in items]),
        index=torch.cat([item.index for item in items]),
        path=[item.path[0] for item in items],
        category=[item.category[0] for item in items],
        defect=[item.defect[0] for item in items],
        size=[item.size[0] for item in items],
        box=[item.box[0] for item in items],
        mask=[item.mask[0] if item.mask else None for item in items] if any(item.mask for item in items) else None,
        features=[join(list(level)) for level in zip(*features, strict=True)] if features else None,
        tiling=tiling,
    )


def join(rows: list[Tensor]) -> Tensor:
    """B x (1, ...) -> (B, ...); a single one, which may be large, is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def collate_equal(items: list[Batch]) -> Batch:
    """`collate` for training. Raises ValueError on images of different sizes."""
    sizes = {tuple(item.image.shape[2:]): item.path[0] for item in items if item.image is not None}
    if len(sizes) > 1:
        (one, first), (two, second), *_ = sizes.items()
        raise ValueError(f"training images of different sizes, {one} {first} and {two} {second}: set data.image_size")
    return collate(items)
