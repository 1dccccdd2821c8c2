"""These tests list photographs of any content, and draw images from the photographs."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lit_ad.data import Photographs
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write three photographs into nested folders."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "deep/b.png", "deep/deeper/c.png"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 50, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photographs"


def test_every_photograph_is_a_training_image(root: Path) -> None:
    samples = Photographs(root).samples()
    assert [sample.image for sample in samples] == [root / "a.png", root / "deep/b.png", root / "deep/deeper/c.png"]
    assert all((sample.label, sample.split, sample.mask) == (0, "train", None) for sample in samples)
    (root / "again").symlink_to(root / "deep")
    (remark,) = Photographs(root).remarks()
    assert "links to folders that are listed already" in remark and len(Photographs(root).samples()) == 3


@pytest.mark.parametrize("make", [lambda root: Photographs(root).samples(), Unrelated])
def test_a_folder_without_photographs_is_refused(tmp_path: Path, make: object) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder: it should hold photographs"):
        make(tmp_path / "nowhere")  # type: ignore[operator]
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").touch()
    with pytest.raises(UserError, match=r"no image in .*text, nor in the folders inside it: expected .*\.png"):
        make(tmp_path / "text")  # type: ignore[operator]


def test_a_draw_is_the_middle_of_a_photograph_enlarged_to_twice_the_size(root: Path) -> None:
    unrelated = Unrelated(root)
    middles = []
    for path in unrelated.images:
        large = Image.open(path).resize((2 * 12, 2 * 8), Image.Resampling.BILINEAR)
        middles.append(np.asarray(large)[4:12, 6:18])
    greys = [np.asarray(Image.fromarray(middle).convert("L").convert("RGB")) for middle in middles]
    draws = [unrelated((8, 12), (0, epoch, image)) for epoch in range(10) for image in range(40)]
    assert all(any(np.array_equal(draw, middle) for middle in (*middles, *greys)) for draw in draws)
    coloured = [sum(np.array_equal(draw, middle) for draw in draws) for middle in middles]
    grey = [sum(np.array_equal(draw, middle) for draw in draws) for middle in greys]
    assert min(coloured) > 60 and sum(grey) == pytest.approx(0.3 * 400, abs=40)
    # Another process draws the same.
    assert np.array_equal(unrelated((8, 12), (1, 2, 3)), Unrelated(root)((8, 12), (1, 2, 3)))


def test_each_page_of_a_tiff_is_a_photograph(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.stack([np.full((9, 9), value, np.uint8) for value in (10, 20, 30)]),
        photometric="minisblack",
    )
    unrelated = Unrelated(tmp_path)
    assert {int(unrelated((8, 8), (0, 0, i)).mean()) for i in range(30)} == {10, 20, 30}
