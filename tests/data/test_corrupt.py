"""Made-up defects: the mask marks where the image changed, and the same key makes the same defect."""

import math

import numpy as np
import pytest

from lit_ad.data.corrupt import Corruption, CutPaste, Perlin, draw_perlin_noise, draw_texture
from lit_ad.errors import UserError

KINDS = {"Perlin": Perlin(), "patch": CutPaste(scars=0.0), "scar": CutPaste(scars=1.0)}


def noise_image(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places_image(height: int = 120, width: int = 200) -> np.ndarray:
    """Make an image in which each pixel holds its place: (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_marks_the_pixels_that_changed(kind: str) -> None:
    image, sizes = noise_image(), []
    for item in range(20):
        before = image.copy()
        corrupted, mask = KINDS[kind](image, (0, 0, item))
        assert np.array_equal(image, before)  # the image that is given stays unchanged: a cache may hold it
        assert corrupted.shape == image.shape and corrupted.dtype == np.uint8 and mask.dtype == np.bool_
        assert np.array_equal(mask, (corrupted.astype(int) - image).any(axis=2))
        sizes.append(mask.mean())
    assert 0 < np.median(sizes) < 0.3 and len(set(sizes)) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_alone_decides_the_defect(kind: str) -> None:
    corrupt, image = KINDS[kind], noise_image()
    keys = [(seed, epoch, item) for seed in (0, 1) for epoch in (0, 1) for item in range(3)]
    made = [corrupt(image, key)[0] for key in keys]
    assert all(np.array_equal(corrupt(image, key)[0], one) for key, one in zip(keys, made, strict=True))
    assert len({one.tobytes() for one in made}) == len(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_outside_of_the_region_do_not_change(kind: str) -> None:
    inside, image = np.zeros((64, 96), np.bool_), noise_image()
    inside[10:40, 20:70] = True
    for item in range(10):
        corrupted, mask = KINDS[kind](image, (0, 0, item), inside=inside)
        assert not mask[~inside].any() and np.array_equal(corrupted[~inside], image[~inside])
        everywhere = KINDS[kind](image, (0, 0, item))[1]
        assert np.array_equal(mask, everywhere & inside)


def test_a_patch_with_the_pixels_of_its_place_is_no_defect() -> None:
    """A patch of an even surface does not change that surface, so its mask is empty."""
    corrupted, mask = CutPaste(jitter=0.0)(np.full((40, 40, 3), 90, np.uint8), (0, 0, 0))
    assert (corrupted == 90).all() and not mask.any()


def test_perlin_mixes_the_image_with_a_texture() -> None:
    image, texture = np.full((64, 64, 3), 40, np.uint8), np.full((64, 64, 3), 240, np.uint8)
    opacities = []
    for item in range(40):
        corrupted, mask = Perlin()(image, (0, 0, item), texture)
        if mask.any():
            (value,) = np.unique(corrupted[mask])
            opacities.append((value - 40) / 200)
    assert 0.2 <= min(opacities) < 0.3 and 0.9 < max(opacities) <= 1 and len(opacities) > 30
    corrupted, mask = Perlin(opacity=(1.0, 1.0))(image, (0, 0, 0), texture)
    assert (corrupted[mask] == 240).all()


def test_perlin_makes_a_texture_where_none_is_given() -> None:
    corrupted, mask = Perlin(opacity=(1.0, 1.0))(np.zeros((64, 64, 3), np.uint8), (0, 0, 0))
    assert len(np.unique(corrupted[mask], axis=0)) > 20
    textures = [draw_texture((20, 30), np.random.default_rng(seed)) for seed in range(30)]
    assert {texture.shape for texture in textures} == {(20, 30, 3)}
    steps = [np.abs(np.diff(texture.astype(int), axis=0)).mean() for texture in textures]
    assert min(steps) < 10 and max(steps) > 40  # there are smooth textures and rough textures


def noise_by_hand(size: tuple[int, int], cells: tuple[int, int], seed: int) -> np.ndarray:
    """Compute Perlin's noise pixel by pixel: at each corner of the cell, the gradient times the way from the corner to
    the pixel."""
    generator = np.random.default_rng(seed)
    angle, v0, u0 = generator.uniform(-math.pi / 2, math.pi / 2), generator.random(), generator.random()
    places = {}
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row - size[0] / 2, column - size[1] / 2
            turned = math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x
            places[row, column] = turned[0] * cells[0] / size[0] + v0, turned[1] * cells[1] / size[1] + u0
    first = [min(math.floor(place[axis]) for place in places.values()) for axis in (0, 1)]
    last = [max(math.floor(place[axis]) for place in places.values()) for axis in (0, 1)]
    directions = generator.uniform(0, 2 * math.pi, [last[axis] - first[axis] + 2 for axis in (0, 1)])
    found = np.zeros(size)
    for pixel, (v, u) in places.items():
        for i in (0, 1):
            for j in (0, 1):
                corner = math.floor(v) + i, math.floor(u) + j
                direction = directions[corner[0] - first[0], corner[1] - first[1]]
                said = math.cos(direction) * (v - corner[0]) + math.sin(direction) * (u - corner[1])
                near = [1 - abs(place - own) for place, own in zip((v, u), corner, strict=True)]
                found[pixel] += said * math.prod(6 * t**5 - 15 * t**4 + 10 * t**3 for t in near)
    return found * math.sqrt(2)


@pytest.mark.parametrize(("size", "cells"), [((16, 24), (2, 4)), ((20, 20), (1, 1)), ((9, 30), (8, 1))])
def test_perlin_noise_equals_noise_computed_by_hand(size: tuple[int, int], cells: tuple[int, int]) -> None:
    found = draw_perlin_noise(size, cells, np.random.default_rng(3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, noise_by_hand(size, cells, 3), atol=2e-5)


def test_perlin_noise_has_mean_0_and_exceeds_the_limit_at_every_pixel() -> None:
    noises = np.array([draw_perlin_noise((64, 64), (4, 4), np.random.default_rng(seed)) for seed in range(200)])
    assert np.abs(noises).max() <= 1 and abs(noises.mean()) < 0.01
    share = (noises > 0.5).mean(axis=0)  # for each pixel, the share of images above the limit: no pixel is left out
    assert 0.02 < share.mean() < 0.1 and share.min() > 0.3 * share.mean() / 2


def test_a_patch_is_a_copied_part_of_the_image() -> None:
    image = places_image()
    for item in range(40):
        corrupted, mask = CutPaste(scars=0.0, jitter=0.0)(image, (0, 0, item))
        top, left, bottom, right = bounds(mask)
        assert mask[top:bottom, left:right].all()
        piece = corrupted[top:bottom, left:right].astype(int)
        assert np.array_equal(piece - piece[0, 0], places_image(bottom - top, right - left))
        height, width = bottom - top, right - left
        assert 0.015 < height * width / mask.size < 0.26 and 0.25 < height / width < 3.6


def test_a_scar_is_narrow_and_long() -> None:
    image, sides = places_image(), []
    for item in range(60):
        mask = CutPaste(scars=1.0, jitter=0.0, turn=0.0)(image, (0, 0, item))[1]
        top, left, bottom, right = bounds(mask)
        assert mask[top:bottom, left:right].all()
        sides.append((bottom - top, right - left))
    heights, widths = zip(*sides, strict=True)
    assert min(heights) >= 10 and max(heights) <= 25 and min(widths) >= 2 and max(widths) <= 16
    turned = CutPaste(scars=1.0, jitter=0.0, width=(4, 4), length=(24, 24), turn=45.0)
    masks = [turned(image, (0, 0, item))[1] for item in range(20)]
    assert all(70 < mask.sum() < 130 for mask in masks)  # a scar has 4 x 24 pixels
    assert max(right - left for _, left, _, right in map(bounds, masks)) > 12


def test_jitter_changes_the_brightness_of_a_patch() -> None:
    levels = []
    for item in range(60):
        corrupted, mask = CutPaste(scars=0.0, jitter=0.5)(np.full((40, 40, 3), 100, np.uint8), (0, 0, item))
        # On an even surface, only the brightness can change.
        levels += [int(corrupted[mask][0, 0])] if mask.any() else []
    assert 50 <= min(levels) < 65 and 135 < max(levels) <= 150


def test_small_images_are_corrupted_and_wrong_ranges_are_refused() -> None:
    for corrupt in KINDS.values():
        assert corrupt(noise_image(8, 9), (0, 0, 0))[0].shape == (8, 9, 3)
    for wrong, message in (
        (lambda: Perlin(opacity=(0.5, 0.2)), r"data.corrupt: opacity is \[0.5, 0.2\], .*ascending, from 0 to 1"),
        (lambda: Perlin(fineness=(0, 40)), r"data.corrupt: fineness is \[0, 40\]"),
        (lambda: CutPaste(area=(0.1, 2.0)), r"data.corrupt: area is"),
        (lambda: CutPaste(width=(0, 3)), r"data.corrupt: width is"),
        (lambda: CutPaste(jitter=1.5), r"data.corrupt: scars, jitter is"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()
    with pytest.raises(NotImplementedError):
        Corruption()(noise_image(), (0, 0, 0))
