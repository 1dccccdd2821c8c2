"""Shifted copies: which images and masks they hold, that they are the same everywhere, and that they are complete or
absent."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data import MVTec
from lit_ad.data.augment import Augment
from lit_ad.data.light import Light
from lit_ad.data.masks import read_mask
from lit_ad.data.shift import Shift, write_shifted
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two test images with one name, of which one is grey and a JPEG, and one training image."""
    generator, root = np.random.default_rng(0), tmp_path / "nut"
    for name in ("train/good/1.png", "test/good/1.png", "test/dent/1.jpg", "ground_truth/dent/1_mask.png"):
        (root / name).parent.mkdir(parents=True)
        image = Image.fromarray(generator.integers(60, 160, (20, 24, 3)).astype(np.uint8))
        if "mask" in name:
            image = Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 9)
        (image.convert("L") if "dent" in name else image).save(root / name)
    return root


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_copy_holds_shifted_test_images_and_unchanged_training_images_and_masks(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    assert write_shifted(MVTec(root).samples(), Shift("gamma", 0.4, seed=7), copy) == 2
    assert capsys.readouterr().err == ""  # a log gets no bar
    names = ["ground_truth/dent/1_mask.png", "test/dent/1.png", "test/good/1.png", "train/good/1.png"]
    assert files(copy) == [*(f"nut/{name}" for name in names), "shift.json"]
    listed = MVTec(copy).samples()
    assert [(s.category, s.split, s.defect, s.label) for s in listed] == [
        (s.category, s.split, s.defect, s.label) for s in MVTec(root).samples()
    ]
    assert (copy / "nut/train/good/1.png").read_bytes() == (root / "train/good/1.png").read_bytes()
    assert np.array_equal(read_mask(copy / "nut/ground_truth/dent/1_mask.png"), np.eye(20, 24) > 0)
    assert Image.open(copy / "nut/test/dent/1.png").mode == "L"
    assert MVTec(copy).shift() == MVTec(copy / "nut").shift() == {"kind": "gamma", "strength": 0.4, "seed": 7}
    assert MVTec(root).shift() is None
    for name, image in {"nut/test/good/1.png": "test/good/1.png", "nut/test/dent/1.png": "test/dent/1.jpg"}.items():
        shifted, plain = read_image(copy / name), read_image(root / image)
        assert np.array_equal(shifted, Shift("gamma", 0.4, 7)(plain, name)) and not np.array_equal(shifted, plain)


def test_the_shift_depends_on_the_seed_and_the_path_in_the_copy_alone(root: Path, tmp_path: Path) -> None:
    moved = root.rename(tmp_path / "elsewhere").rename(tmp_path / "a") and tmp_path / "a"
    (moved / "test/good/0.png").write_bytes((moved / "test/good/1.png").read_bytes())
    samples = [sample._replace(category="nut") for sample in MVTec(moved).samples()]
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        write_shifted(samples if name != "y" else samples[::-1], Shift(seed=seed), tmp_path / name)
    x, y, z = ([(tmp_path / name / f"nut/test/good/{i}.png").read_bytes() for i in (0, 1)] for name in "xyz")
    assert x == y and x != z and x[0] != x[1]
    assert Augment([Light()])(read_image(moved / "test/good/1.png"), (0, 1)).shape == (20, 24, 3)


def test_all_images_with_one_name_are_copied_under_different_names(root: Path, tmp_path: Path) -> None:
    """A source can take the images of a defect from several folders, and a TIFF can have several pages."""
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (60, 120)]
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    images = [root / "test/good/1.png", root / "test/dent/1.jpg", tmp_path / "1.tif#1", tmp_path / "1.tif#2"]
    samples = [Sample(image, 1, None, "", "a/b", "test") for image in images]
    train = [Sample(image, 0, None, "", "good", "train") for image in images[2:]]
    write_shifted([*samples, *train], Shift("noise"), tmp_path / "copy")
    assert files(tmp_path / "copy") == [
        "shift.json",
        *(f"test/a-b/{name}.png" for name in ("1-1", "1-2", "1", "1~2")),
        *(f"train/good/1-{page}.png" for page in (1, 2)),
    ]


def test_files_are_copied_to_another_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_shifted(MVTec(root).samples(), Shift(), tmp_path / "copy")
    copy, original = tmp_path / "copy/nut/train/good/1.png", root / "train/good/1.png"
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)


def test_a_copy_that_fails_leaves_no_files(root: Path, tmp_path: Path) -> None:
    (root / "test/good/2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read .*2.png"):
        write_shifted(MVTec(root).samples(), Shift(), tmp_path / "new/copy")
    Image.fromarray(np.zeros((20, 24), np.uint16)).save(root / "test/good/2.png")
    with pytest.raises(UserError, match=r"2.png has more than 8 bits"):
        write_shifted(MVTec(root).samples(), Shift(), tmp_path / "new/copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nut"]
    with pytest.raises(UserError, match=r"nut exists already"):
        write_shifted(MVTec(root).samples(), Shift(), root)
    with pytest.raises(UserError, match=r"no test image to shift"):
        write_shifted([sample for sample in MVTec(root).samples() if sample.split == "train"], Shift(), tmp_path / "x")
    with pytest.raises(UserError, match=r"seed is -1"):
        Shift(seed=-1)
