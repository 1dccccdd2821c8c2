"""Ground truth: every kind of mask file, and the truth of images without a mask."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.masks import check_masks, read_mask, read_truth
from lit_ad.errors import UserError
from lit_ad.image.pixels import EXTENSIONS
from tests.data.conftest import Write

GREY = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)


def test_every_kind_of_mask_file_is_read(tmp_path: Path) -> None:
    truth = GREY > 200
    for value in (1, 255):
        grey = Image.fromarray(truth.astype(np.uint8) * value)
        kinds = [grey, grey.convert("RGB"), grey.convert("LA"), grey.convert("RGBA"), Image.fromarray(truth)]
        kinds.append(Image.fromarray(truth.astype(np.uint16) * value))
        for i, kind in enumerate(kinds):
            kind.save(tmp_path / f"{i}.png")
            assert np.array_equal(read_mask(tmp_path / f"{i}.png"), truth), (value, kind.mode)
    palette = Image.fromarray((~truth).astype(np.uint8), "P")  # index 0 is the white colour
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_mask(tmp_path / "p.png"), truth)
    block = np.zeros((32, 32), np.uint8)
    block[5:20, 7:23] = 255
    for name in ("block.jpg", "block.jfif", *(["block.avif"] if ".avif" in EXTENSIONS else [])):
        Image.fromarray(block).save(tmp_path / name, format=None if "avif" in name else "JPEG", quality=75)
        assert np.array_equal(read_mask(tmp_path / name), block > 0)
    for name in ("t.gif", "t.pgm", "t.pbm", *(["t.jp2"] if ".jp2" in EXTENSIONS else [])):
        mode = "1" if "pbm" in name else "L"
        Image.fromarray(truth.astype(np.uint8) * 255).convert(mode).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), truth), name


def test_mask_above_decides_which_values_of_a_mask_count(tmp_path: Path) -> None:
    """Some masks hold class ids, in palette images too, whose colours have no meaning. Other masks have smeared edges,
    which count from the middle value on."""
    ids = (GREY % 4).astype(np.uint8)
    palette = Image.fromarray(ids, "P")
    palette.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 255, 0])  # id 1 also has the colour black
    palette.save(tmp_path / "p.png")
    Image.fromarray(ids).save(tmp_path / "ids.png")
    assert np.array_equal(read_mask(tmp_path / "p.png", above=0), ids > 0)
    assert np.array_equal(read_mask(tmp_path / "ids.png", above=0), ids > 0)
    assert np.array_equal(read_mask(tmp_path / "p.png"), ids > 1)
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png", above=127), GREY > 127)
    sample = Sample(Path("a.png"), 1, tmp_path / "grey.png", split="test", mask_above=127)
    truth = read_truth(sample, GREY.shape)
    assert truth is not None and np.array_equal(truth.numpy(), GREY > 127)


def test_an_anomalous_image_without_a_mask_has_no_truth(write_mask: Write) -> None:
    image, mask = Path("a.png"), write_mask("m.png", (20, 24))
    nominal = read_truth(Sample(image, 0, split="test"), (20, 24))
    assert nominal is not None and nominal.shape == (20, 24) and not nominal.any()
    assert read_truth(Sample(image, 1, split="test"), (20, 24)) is None
    truth = read_truth(Sample(image, 1, mask, split="test"), (20, 24))
    assert truth is not None and truth.sum() == 120 and truth[:10, :12].all()
    with pytest.raises(
        UserError, match=r"mask of another size: .*m.png is 20x24 .* its image a.png is 24x20.*: resize it"
    ):
        read_truth(Sample(image, 1, mask, split="test"), (24, 20))


def test_sizes_of_masks_are_read_from_file_headers(tmp_path: Path, write: Write, write_mask: Write) -> None:
    fits = Sample(write("a.png", (20, 24)), 1, write_mask("a_mask.png", (20, 24)), split="test")
    check_masks([fits, Sample(tmp_path / "gone.png", 1, split="test")])  # without a mask no file is opened
    wrong = Sample(write("b.png", (20, 24)), 1, write_mask("b_mask.png", (24, 20)), split="test")
    with pytest.raises(UserError, match=r"b_mask.png is 24x20 .* its image .*b.png is 20x24"):
        check_masks([fits, wrong])


def test_a_mask_fits_the_upright_image(tmp_path: Path, write_mask: Write) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    check_masks([Sample(tmp_path / "a.png", 1, write_mask("upright.png", (30, 20)), split="test")])
    with pytest.raises(UserError, match=r"is 20x30 .* turned upright: resize it"):
        check_masks([Sample(tmp_path / "a.png", 1, write_mask("lying.png", (20, 30)), split="test")])
