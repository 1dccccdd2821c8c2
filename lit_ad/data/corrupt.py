"""Made-up defects for methods that learn from them: replace a part of an image, and return the mask of that part.

The defect is drawn from a key of seed, epoch and item: the same key gives the same defect in every process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from lit_ad.errors import UserError
from lit_ad.image.pixels import Pixels, Size

Mask = NDArray[np.bool_]
Range = tuple[float, float]  # lowest and highest value of a uniform distribution


class Corruption:
    """Replaces a part of an image. A subclass implements `draw`."""

    def __call__(
        self, image: Pixels, key: Sequence[int], texture: Pixels | None = None, inside: Mask | None = None
    ) -> tuple[Pixels, Mask]:
        """Return the corrupted image (H, W, 3), and the mask (H, W) of the pixels that differ from the image.

        The mask may be empty: chance may place no defect, or the defect may equal the image.

        Args:
            image: (H, W, 3); it stays unchanged.
            key: Seed, epoch and item.
            texture: An unrelated image of the same size that may fill the defect. None: a random texture.
            inside: (H, W), true where a defect may lie. None: anywhere.
        """
        generator = np.random.default_rng(np.random.SeedSequence(list(key), spawn_key=(1,)))
        corrupted = self.draw(image, generator, texture)
        if inside is not None:
            corrupted = np.where(inside[..., None], corrupted, image)
        return corrupted, (corrupted != image).any(axis=2)

    def draw(self, image: Pixels, generator: np.random.Generator, texture: Pixels | None) -> Pixels:
        """Return the corrupted image, (H, W, 3)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Perlin(Corruption):
    """Replaces patches by an unrelated texture, where Perlin noise is above a limit.

    Source: Zavrtanik et al., "DRAEM", ICCV 2021, https://arxiv.org/abs/2108.07610, section 3.2. The noise is rotated as
    in DRAEM, but here its origin is random, and it covers the corners of the image, too.

    Args:
        fineness: Least and greatest exponent of two for the number of the noise's cells along a side: (0, 5) draws 1 to
            32 cells.
        limit: The texture replaces pixels whose noise, between -1 and 1, is above this limit. There may be none.
        opacity: Least and greatest opacity of the texture over the image.
    """

    fineness: tuple[int, int] = (0, 5)
    limit: float = 0.5
    opacity: Range = (0.2, 1.0)

    def __post_init__(self) -> None:
        _check_range("fineness", self.fineness, 0, 16)
        _check_range("opacity", self.opacity, 0, 1)

    def draw(self, image: Pixels, generator: np.random.Generator, texture: Pixels | None) -> Pixels:
        size = (image.shape[0], image.shape[1])
        rows, columns = 2 ** generator.integers(*self.fineness, 2, endpoint=True)
        noise = draw_perlin_noise(size, (int(rows), int(columns)), generator)
        weight = generator.uniform(*self.opacity) * (noise > self.limit)[..., None]
        filling = draw_texture(size, generator) if texture is None else texture
        return np.rint(image + weight * (filling.astype(np.float32) - image)).astype(np.uint8)


@dataclass(frozen=True)
class CutPaste(Corruption):
    """Pastes a piece of the image, with changed colours, at another place: a patch, or a thin scar.

    Source: Li et al., "CutPaste", CVPR 2021, https://arxiv.org/abs/2104.04015. The hue does not change.

    Args:
        scars: Fraction of scars; the others are patches.
        area: Least and greatest area of a patch, as a fraction of the image's.
        aspect: Least and greatest height over width of a patch.
        width: Least and greatest width of a scar, in pixels.
        length: Least and greatest length of a scar, in pixels.
        turn: Greatest rotation of a scar in either direction, in degrees.
        jitter: Brightness, contrast and saturation of the piece change by factors between 1 - jitter and 1 + jitter.
    """

    scars: float = 0.5
    area: Range = (0.02, 0.25)
    aspect: Range = (0.3, 3.3)
    width: tuple[int, int] = (2, 16)
    length: tuple[int, int] = (10, 25)
    turn: float = 45.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check_range("area", self.area, 0, 1)
        _check_range("aspect", self.aspect, 0.01, 100)
        for name in ("width", "length"):
            _check_range(name, getattr(self, name), 1, 10**4)
        _check_range("scars, jitter", (min(self.scars, self.jitter), max(self.scars, self.jitter)), 0, 1)

    def draw(self, image: Pixels, generator: np.random.Generator, texture: Pixels | None) -> Pixels:
        scar = generator.random() < self.scars
        if scar:
            height, width = (float(generator.integers(*sides, endpoint=True)) for sides in (self.length, self.width))
        else:
            area = generator.uniform(*self.area) * image.shape[0] * image.shape[1]
            aspect = np.exp(generator.uniform(*np.log(self.aspect)))
            height, width = np.sqrt(area * aspect), np.sqrt(area / aspect)
        part = min(max(1, round(height)), image.shape[0]), min(max(1, round(width)), image.shape[1])
        top, left = _draw_place(image.shape, part, generator)
        piece = Image.fromarray(np.ascontiguousarray(image[top : top + part[0], left : left + part[1]]))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            piece = enhance(piece).enhance(generator.uniform(1 - self.jitter, 1 + self.jitter))
        shape = Image.new("L", piece.size, 255)
        if scar:
            angle = generator.uniform(-self.turn, self.turn)
            piece, shape = (part.rotate(angle, expand=True) for part in (piece, shape))
        top, left = _draw_place(image.shape, (piece.height, piece.width), generator)
        result = Image.fromarray(image)
        result.paste(piece, (left, top), shape)
        return np.array(result)


def draw_perlin_noise(size: Size, cells: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth noise between -1 and 1, (H, W), rotated by a random angle between -90 and 90 degrees.

    Source: Perlin, "Improving noise", SIGGRAPH 2002. Each corner of a cell has a random gradient. Between the corners,
    the noise is interpolated with the weight 6 t^5 - 15 t^4 + 10 t^3.

    Args:
        size: Height and width.
        cells: Number of cells along the height and along the width.
        generator: Draws the gradients, the angle and the origin.
    """
    angle = generator.uniform(-np.pi / 2, np.pi / 2)
    y, x = (np.arange(side, dtype=np.float32) - side / 2 for side in size)
    v = (np.cos(angle) * y[:, None] - np.sin(angle) * x) * (cells[0] / size[0]) + generator.random()
    u = (np.sin(angle) * y[:, None] + np.cos(angle) * x) * (cells[1] / size[1]) + generator.random()
    rows, columns = np.floor(v).astype(int), np.floor(u).astype(int)
    v, u = (v - rows).astype(np.float32), (u - columns).astype(np.float32)
    rows, columns = rows - rows.min(), columns - columns.min()
    directions = generator.uniform(0, 2 * np.pi, (rows.max() + 2, columns.max() + 2)).astype(np.float32)
    down, across = np.cos(directions), np.sin(directions)

    def measure_heights(i: int, j: int) -> NDArray[np.float32]:
        place = rows + i, columns + j
        heights: NDArray[np.float32] = down[place] * (v - i) + across[place] * (u - j)
        return heights

    fade_v, fade_u = (t**3 * (t * (6 * t - 15) + 10) for t in (v, u))
    above, below = (measure_heights(i, 0) + fade_u * (measure_heights(i, 1) - measure_heights(i, 0)) for i in (0, 1))
    noise: NDArray[np.float32] = np.sqrt(np.float32(2)) * (above + fade_v * (below - above))
    return noise


def draw_texture(size: Size, generator: np.random.Generator) -> Pixels:
    """Return a random texture (H, W, 3): random colours on a grid of 2 to 128 cells along a side, smoothly enlarged."""
    rows, columns = 2 ** generator.integers(1, 8, 2)
    colours = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
    return np.asarray(colours.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _draw_place(image: Sequence[int], part: Size, generator: np.random.Generator) -> tuple[int, int]:
    """Draw top and left of a part of a given size inside an image (H, W, ...)."""
    top, left = (int(generator.integers(max(0, side - own) + 1)) for side, own in zip(image[:2], part, strict=True))
    return top, left


def _check_range(name: str, values: Range, least: float, most: float) -> None:
    """Raise UserError unless least <= values[0] <= values[1] <= most."""
    if not (len(values) == 2 and least <= values[0] <= values[1] <= most):
        raise UserError(f"data.corrupt: {name} is {list(values)}, but it must be ascending, from {least} to {most}")
