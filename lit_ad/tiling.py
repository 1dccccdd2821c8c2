"""Where the tiles of an image lie, and how their maps become one map again.

Stateless: a Grid is a function of the image's size alone. Tiles are cut one at a time, so that memory is bounded by the
micro-batch and not by the image (kornia's and torch's unfold stack all tiles at once).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest evenly spread tiles that cover `length` with at least `overlap` shared pixels."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


@lru_cache
def ramp(tile: int, overlap: int, before: bool, after: bool) -> Tensor:
    """Blending weight along one axis of a tile, (tile,).

    One inside; towards a neighbour it falls smoothly over the middle half of the overlap and is zero in the outermost
    quarter, where a network sees its own zero padding. The image's border keeps full weight.
    """
    weight = torch.ones(tile)
    if overlap:
        position = (torch.arange(overlap) + 0.5) / overlap
        rise = 0.5 - 0.5 * torch.cos(math.pi * ((position - 0.25) / 0.5).clamp(0, 1))
        if before:
            weight[:overlap] *= rise
        if after:
            weight[-overlap:] *= rise.flip(0)
    return weight


class Grid:
    """The tiles of an (H, W) image, `tile` pixels a side, sharing `overlap` pixels or more with their neighbours.

    An image smaller than a tile is padded by reflection at the bottom and right, and its map is cut back.
    """

    def __init__(self, size: tuple[int, int], tile: int, overlap: int) -> None:
        if tile < 1 or not 0 <= overlap <= tile // 2:
            raise ValueError(f"tile_overlap must lie between 0 and half the tile of {tile} pixels, not {overlap}")
        self.size, self.tile, self.overlap = size, tile, overlap
        self.rows = starts(size[0], tile, overlap)
        self.columns = starts(size[1], tile, overlap)

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Top left pixel of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def cut(self, image: Tensor, start: int, stop: int) -> Tensor:
        """Tiles start..stop-1 of an image, (C, H, W) -> (n, C, tile, tile), in the image's dtype."""
        tiles = []
        for top, left in self.corners[start:stop]:
            tile = image[:, top : top + self.tile, left : left + self.tile]
            tiles.append(reflect(tile, (self.tile, self.tile)))
        return torch.stack(tiles)

    def batches(self, image: Tensor, size: int) -> Iterator[Tensor]:
        """All tiles, `size` at a time: (C, H, W) -> (n <= size, C, tile, tile)."""
        for start in range(0, len(self), size):
            yield self.cut(image, start, start + size)

    def stitch(self, maps: Iterator[Tensor]) -> Tensor:
        """Blend the tiles' maps, given in order as (n, 1, tile, tile), into the image's: (1, 1, H, W), same dtype."""
        height, width = max(self.size[0], self.tile), max(self.size[1], self.tile)
        total: Tensor | None = None
        dtype = torch.float32
        done = 0
        for group in maps:
            if total is None:
                total, dtype = torch.zeros(height, width, device=group.device), group.dtype
            for tile in group[:, 0]:
                top, left = self.corners[done]
                weight_y, weight_x = self._weights(top, left)
                weight_y, weight_x = weight_y.to(tile.device), weight_x.to(tile.device)
                view = total[top : top + self.tile, left : left + self.tile]
                view.addcmul_(tile.float() * weight_y[:, None], weight_x.expand_as(tile))
                done += 1
        assert total is not None and done == len(self), "a map for each tile"
        total /= self._coverage(self.rows, height).to(total.device)[:, None]
        total /= self._coverage(self.columns, width).to(total.device)
        return total[None, None, : self.size[0], : self.size[1]].to(dtype)

    def _weights(self, top: int, left: int) -> tuple[Tensor, Tensor]:
        rows, columns = self.rows, self.columns
        return (
            ramp(self.tile, self.overlap, top != rows[0], top != rows[-1]),
            ramp(self.tile, self.overlap, left != columns[0], left != columns[-1]),
        )

    def _coverage(self, positions: list[int], length: int) -> Tensor:
        """Sum of the weights of all tiles along one axis, (length,); the two-dimensional sum is the outer product."""
        total = torch.zeros(length)
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

    def cut(self, image: Tensor, index: int, key: Sequence[int]) -> Tensor:
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


def reflect(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill up at the bottom and right by reflection, again and again if need be: (C, H, W) -> (C, *size)."""
    for axis, length in enumerate(size, start=1):
        have = image.shape[axis]
        if have < length:
            period = max(2 * (have - 1), 1)
            position = torch.arange(length, device=image.device) % period
            image = image.index_select(axis, torch.minimum(position, period - position) if have > 1 else position)
    return image
