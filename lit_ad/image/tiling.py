"""Where the tiles of an image lie, and how their maps become one map again.

Stateless: a Grid is a function of the image's size alone. It takes torch tensors and NumPy arrays alike, and gives back
what it was given, so that an exported detector tiles by the same code without torch. Tiles are cut one batch at a time,
so that memory is bounded by the batch and not by the image (kornia's and torch's unfold stack all tiles at once).
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_ad.errors import UserError

Array = TypeVar("Array")  # a torch tensor or a NumPy array


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest evenly spread tiles that cover `length` with at least `overlap` shared pixels."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


@lru_cache
def ramp(tile: int, overlap: int, before: bool, after: bool) -> NDArray[np.float32]:
    """Blending weight along one axis of a tile, (tile,).

    One inside; towards a neighbour it falls smoothly over the middle half of the overlap and is zero in the outermost
    quarter, where a network sees its own zero padding. The image's border keeps full weight.
    """
    weight = np.ones(tile, np.float32)
    if overlap:
        position = (np.arange(overlap) + 0.5) / overlap
        rise = (0.5 - 0.5 * np.cos(np.pi * np.clip((position - 0.25) / 0.5, 0, 1))).astype(np.float32)
        if before:
            weight[:overlap] *= rise
        if after:
            weight[-overlap:] *= rise[::-1]
    return weight


class Grid:
    """The tiles of an (H, W) image, `tile` pixels a side, sharing `overlap` pixels or more with their neighbours.

    An image smaller than a tile is padded by reflection at the bottom and right, and its map is cut back.

    Raises:
        UserError: The overlap is more than half a tile.
    """

    def __init__(self, size: tuple[int, int], tile: int, overlap: int) -> None:
        if tile < 1 or not 0 <= overlap <= tile // 2:
            raise UserError(f"view.overlap must lie between 0 and half the tile of {tile} pixels, not {overlap}")
        self.size, self.tile, self.overlap = size, tile, overlap
        self.rows = starts(size[0], tile, overlap)
        self.columns = starts(size[1], tile, overlap)

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Top left pixel of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def cut(self, image: Any, start: int, stop: int) -> Any:
        """Tiles start..stop-1 of an image, (C, H, W) -> (n, C, tile, tile), in the image's dtype."""
        corners = self.corners[start:stop]
        tiles = zeros((len(corners), image.shape[0], self.tile, self.tile), image)
        for number, (top, left) in enumerate(corners):
            tile = image[:, top : top + self.tile, left : left + self.tile]
            tiles[number] = reflect(tile, (self.tile, self.tile))
        return tiles

    def batches(self, image: Array, size: int) -> Iterator[Array]:
        """All tiles, `size` at a time: (C, H, W) -> (n <= size, C, tile, tile)."""
        for start in range(0, len(self), size):
            yield self.cut(image, start, start + size)

    def stitch(self, maps: Iterator[Any]) -> Any:
        """Blend the tiles' maps, given in order as (n, 1, tile, tile), into the image's: (1, 1, H, W), float32."""
        height, width = max(self.size[0], self.tile), max(self.size[1], self.tile)
        total: Any = None
        done = 0
        for group in maps:
            if total is None:
                total = zeros((height, width), group, float32=True)
            for tile in group[:, 0]:
                top, left = self.corners[done]
                rows = ramp(self.tile, self.overlap, top != self.rows[0], top != self.rows[-1])
                columns = ramp(self.tile, self.overlap, left != self.columns[0], left != self.columns[-1])
                part = total[top : top + self.tile, left : left + self.tile]
                part += tile * like(rows, total)[:, None] * like(columns, total)
                done += 1
        assert total is not None and done == len(self), "a map for each tile"
        total /= like(self._coverage(self.rows, height), total)[:, None]
        total /= like(self._coverage(self.columns, width), total)
        return total[None, None, : self.size[0], : self.size[1]]

    def _coverage(self, positions: list[int], length: int) -> NDArray[np.float32]:
        """Sum of the weights of all tiles along one axis, (length,); the two-dimensional sum is the outer product."""
        total = np.zeros(length, np.float32)
        for start in positions:
            total[start : start + self.tile] += ramp(
                self.tile, self.overlap, start != positions[0], start != positions[-1]
            )
        return total


class Tiles:
    """The tiles of many images, numbered through: what an epoch of training on tiles consists of.

    Args:
        sizes: (H, W) of each image.
        tile, overlap: As for Grid.
        random: Crops anywhere, as many of each image as its grid has tiles, in place of the grid's tiles.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], tile: int, overlap: int, random: bool = False) -> None:
        self.grids = [Grid(size, tile, overlap) for size in sizes]
        self.ends = list(accumulate(len(grid) for grid in self.grids))
        self.tile, self.random = tile, random

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def image(self, index: int) -> int:
        """Which image a tile is of."""
        return bisect_right(self.ends, index)

    def of_images(self, numbers: Collection[int]) -> list[int]:
        """The tiles of the images with these numbers, in order."""
        wanted = set(numbers)
        return [index for index in range(len(self)) if self.image(index) in wanted]

    def cut(self, image: Any, index: int, key: Sequence[int]) -> Any:
        """The tile from its image, (C, H, W) -> (C, tile, tile); a random one is the same for the same key."""
        number = self.image(index)
        grid = self.grids[number]
        assert tuple(image.shape[-2:]) == grid.size, "the image that the tiles were laid out for"
        if not self.random:
            within = index - (self.ends[number] - len(grid))
            return grid.cut(image, within, within + 1)[0]
        generator = np.random.default_rng([*key, index])
        top, left = (int(generator.integers(max(side - self.tile, 0) + 1)) for side in grid.size)
        return reflect(image[:, top : top + self.tile, left : left + self.tile], (self.tile, self.tile))


def reflect(image: Any, size: tuple[int, int]) -> Any:
    """Fill up at the bottom and right by reflection, again and again if need be: (C, H, W) -> (C, *size)."""
    for axis, length in enumerate(size):
        have = image.shape[1 + axis]
        if have < length:
            period = max(2 * (have - 1), 1)
            position = np.arange(length) % period
            position = np.minimum(position, period - position) if have > 1 else position
            image = image[:, position] if axis == 0 else image[:, :, position]
    return image


def zeros(shape: tuple[int, ...], other: Any, float32: bool = False) -> Any:
    """An array of the same kind as `other`, on its device, and of its dtype or float32."""
    if isinstance(other, np.ndarray):
        return np.zeros(shape, np.float32 if float32 else other.dtype)
    return (other[:0].float() if float32 else other).new_zeros(shape)


def like(weights: NDArray[np.float32], other: Any) -> Any:
    """Weights as an array of the same kind as `other`, on its device."""
    return weights if isinstance(other, np.ndarray) else other.new_tensor(weights)
