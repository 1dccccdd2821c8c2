"""These fixtures write small image files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("a/b.png", size=(h, w), value=None) writes an RGB image under tmp_path: random pixels, or one value."""
    generator = np.random.default_rng(0)

    def write(name: str, size: tuple[int, int] = (20, 24), value: int | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size, 3)) if value is None else np.full((*size, 3), value)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def write_mask(tmp_path: Path) -> Write:
    """write_mask("a/b.png", size=(h, w)) writes a grey mask whose upper left quarter is anomalous."""

    def write_mask(name: str, size: tuple[int, int] = (20, 24)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2, : size[1] // 2] = 255
        Image.fromarray(mask).save(path)
        return path

    return write_mask


@pytest.fixture
def bottle(tmp_path: Path, write: Write, write_mask: Write) -> Path:
    """Write a category in MVTec's layout: 10 training images, 3 good and 2 broken test images, one mask for the first
    broken image."""
    for i in range(10):
        write(f"bottle/train/good/{i:03}.png")
    for i in range(3):
        write(f"bottle/test/good/{i:03}.png")
    for i in range(2):
        write(f"bottle/test/broken/{i:03}.png")
    write_mask("bottle/ground_truth/broken/000_mask.png")
    return tmp_path / "bottle"
