"""Where the tiles of an image lie, and how their maps become one map again.

Stateless: a Grid is a function of the image's size alone. Tiles are cut one at a time, so that memory is bounded by the
micro-batch and not by the image (kornia's and torch's unfold stack all tiles at once).
"""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

Box = tuple[int, int, int, int]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest evenly spread tiles that cover `length` with at least `overlap` shared pixels."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


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


def reflect(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad at the bottom and right by reflection up to `size`, again and again if need be: (C, H, W) -> (C, *size)."""
    while image.shape[-2] < size[0] or image.shape[-1] < size[1]:
        height, width = image.shape[-2:]
        down, right = min(size[0] - height, max(height - 1, 0)), min(size[1] - width, max(width - 1, 0))
        if (down, right) == (0, 0):  # a single row or column has nothing to reflect
            return pad(image[None], (0, size[1] - width, 0, size[0] - height), mode="replicate")[0]
        image = pad(image[None], (0, right, 0, down), mode="reflect")[0]
    return image
