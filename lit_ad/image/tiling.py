"""Cut an image into tiles, and blend the tiles' maps into one map.

The tiles depend on the image's size alone. The functions take torch tensors and NumPy arrays, and return the same kind,
so that an exported detector uses this code without torch. Tiles are cut one batch at a time: the batch, not the image,
bounds the memory (kornia's and torch's unfold stack all tiles at once).
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


def list_tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixel of each tile, for the fewest evenly spread tiles that cover `length` pixels and share at
    least `overlap` pixels with their neighbours."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


@lru_cache
def compute_blend_weights(tile: int, overlap: int, before: bool, after: bool) -> NDArray[np.float32]:
    """Return the blending weights along one axis of a tile, (tile,).

    The weight is 1 inside. Towards a neighbour it falls smoothly over the middle half of the overlap, and is 0 in the
    outermost quarter, where the network's own zero padding disturbs the map. At the image's border the weight stays 1.

    Args:
        tile: The side of the tile.
        overlap: Pixels shared with a neighbour.
        before: Whether there is a neighbour before the tile on this axis.
        after: Whether there is a neighbour after the tile.
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
    """The tiles of an image: squares that share pixels with their neighbours.

    An image smaller than a tile is padded by reflection at the bottom and right, and its map is cut back.

    Args:
        size: H, W of the image.
        tile: The side of a tile.
        overlap: The least number of pixels that neighbours share.

    Raises:
        UserError: The overlap is below 0, or more than half a tile.
    """

    def __init__(self, size: tuple[int, int], tile: int, overlap: int) -> None:
        if tile < 1 or not 0 <= overlap <= tile // 2:
            raise UserError(f"view.overlap must lie between 0 and half the tile of {tile} pixels, not {overlap}")
        self.size, self.tile, self.overlap = size, tile, overlap
        self.rows = list_tile_starts(size[0], tile, overlap)
        self.columns = list_tile_starts(size[1], tile, overlap)

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """The top left pixel of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def cut(self, image: Any, start: int, stop: int) -> Any:
        """Cut the tiles from number `start` to before `stop`: (C, H, W) -> (n, C, tile, tile), in the image's dtype."""
        corners = self.corners[start:stop]
        tiles = zeros_like((len(corners), image.shape[0], self.tile, self.tile), image)
        for number, (top, left) in enumerate(corners):
            tile = image[:, top : top + self.tile, left : left + self.tile]
            tiles[number] = reflect(tile, (self.tile, self.tile))
        return tiles

    def cut_batches(self, image: Array, size: int) -> Iterator[Array]:
        """Yield all tiles, `size` at a time: (C, H, W) -> (n <= size, C, tile, tile)."""
        for start in range(0, len(self), size):
            yield self.cut(image, start, start + size)

    def stitch(self, maps: Iterator[Any]) -> Any:
        """Blend the tiles' maps into the image's map: (n, 1, tile, tile) for each batch, in order -> (1, 1, H, W)
        float32."""
        height, width = max(self.size[0], self.tile), max(self.size[1], self.tile)
        total: Any = None
        done = 0
        for group in maps:
            if total is None:
                total = zeros_like((height, width), group, float32=True)
            for tile in group[:, 0]:
                top, left = self.corners[done]
                rows = compute_blend_weights(self.tile, self.overlap, top != self.rows[0], top != self.rows[-1])
                columns = compute_blend_weights(
                    self.tile, self.overlap, left != self.columns[0], left != self.columns[-1]
                )
                part = total[top : top + self.tile, left : left + self.tile]
                part += tile * _convert_like(rows, total)[:, None] * _convert_like(columns, total)
                done += 1
        assert total is not None and done == len(self), "a map for each tile"
        total /= _convert_like(self._sum_weights(self.rows, height), total)[:, None]
        total /= _convert_like(self._sum_weights(self.columns, width), total)
        return total[None, None, : self.size[0], : self.size[1]]

    def _sum_weights(self, positions: list[int], length: int) -> NDArray[np.float32]:
        """Return the sum of all tiles' weights along one axis, (length,). The sum at a pixel is the product of the sums
        of its row and its column."""
        total = np.zeros(length, np.float32)
        for start in positions:
            total[start : start + self.tile] += compute_blend_weights(
                self.tile, self.overlap, start != positions[0], start != positions[-1]
            )
        return total


class Tiles:
    """The tiles of many images under one numbering: an epoch of training on tiles.

    Args:
        sizes: H, W of each image.
        tile: The side of a tile.
        overlap: See `Grid`.
        random: Whether random crops replace the tiles of the grid, as many crops as tiles for each image.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], tile: int, overlap: int, random: bool = False) -> None:
        self.grids = [Grid(size, tile, overlap) for size in sizes]
        self.ends = list(accumulate(len(grid) for grid in self.grids))
        self.tile, self.random = tile, random

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def image(self, index: int) -> int:
        """Return the number of the image to which a tile belongs."""
        return bisect_right(self.ends, index)

    def numbers_of_images(self, numbers: Collection[int]) -> list[int]:
        """Return the indices of all tiles of some images, in order. `numbers`: the indices of the images."""
        wanted = set(numbers)
        return [index for index in range(len(self)) if self.image(index) in wanted]

    def cut(self, image: Any, index: int, key: Sequence[int]) -> Any:
        """Cut the tile with number `index` out of its image, (C, H, W) -> (C, tile, tile).

        `key`: seed and epoch. Equal keys give equal random crops.
        """
        number = self.image(index)
        grid = self.grids[number]
        assert tuple(image.shape[-2:]) == grid.size, "the image that the tiles were laid out for"
        if not self.random:
            number_in_image = index - (self.ends[number] - len(grid))
            return grid.cut(image, number_in_image, number_in_image + 1)[0]
        generator = np.random.default_rng([*key, index])
        top, left = (int(generator.integers(max(side - self.tile, 0) + 1)) for side in grid.size)
        return reflect(image[:, top : top + self.tile, left : left + self.tile], (self.tile, self.tile))


def reflect(image: Any, size: tuple[int, int]) -> Any:
    """Pad an image at the bottom and right by reflection, repeatedly if it is very small: (C, H, W) -> (C, *size)."""
    for axis, length in enumerate(size):
        old_length = image.shape[1 + axis]
        if old_length < length:
            period = max(2 * (old_length - 1), 1)
            position = np.arange(length) % period
            position = np.minimum(position, period - position) if old_length > 1 else position
            image = image[:, position] if axis == 0 else image[:, :, position]
    return image


def zeros_like(shape: tuple[int, ...], other: Any, float32: bool = False) -> Any:
    """Return zeros of a shape, of the same kind, device and dtype (or float32) as `other`."""
    if isinstance(other, np.ndarray):
        return np.zeros(shape, np.float32 if float32 else other.dtype)
    return (other[:0].float() if float32 else other).new_zeros(shape)


def _convert_like(weights: NDArray[np.float32], other: Any) -> Any:
    """Return weights as the same kind of array as `other`, on its device."""
    return weights if isinstance(other, np.ndarray) else other.new_tensor(weights)
