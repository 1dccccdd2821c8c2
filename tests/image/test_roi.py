"""A region of interest is a box or a mask; it survives text and other sizes, and maps return to their place."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.image.roi import FILL, Roi, encode_mask, select_inside
from lit_ad.image.view import View, original_map, visible_box

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (40, 60, 3)).astype(np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 5:45] = True
MASK[10:20, 5:25] = False


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    Image.fromarray(MASK).save(tmp_path / "roi.png")
    return tmp_path / "roi.png"


def test_a_mask_survives_as_text(mask_file: Path) -> None:
    view = View(32, roi=mask_file)
    mask_file.unlink()  # nothing needs it any more
    again = View.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view and again.region is not None
    assert np.array_equal(again.region.make_mask((40, 60)), MASK) and again.region.box == (10, 5, 30, 45)
    assert View.from_dict(json.loads(json.dumps(View(32, roi=(1, 2, 3, 4)).to_dict()))) == View(32, roi=(1, 2, 3, 4))


def test_pixels_outside_change_nothing(mask_file: Path) -> None:
    other = np.where(MASK[..., None], IMAGE, GENERATOR.integers(0, 256, IMAGE.shape).astype(np.uint8))
    for view in (View(32, roi=mask_file), View(None, roi=mask_file), View((24, 48), fit="pad", roi=mask_file)):
        (seen, box), (same, there) = view(IMAGE), view(other)
        assert np.array_equal(seen, same) and box == there
    framed = View(None, roi=(10, 5, 30, 45))
    assert np.array_equal(framed(IMAGE)[0], IMAGE[10:30, 5:45]) and framed.content((40, 60)) == (20, 40)
    assert (View(None, roi=mask_file)(IMAGE)[0][0, 0] == FILL).all()


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_map_returns_to_its_place_in_the_image(fit: str, mask_file: Path) -> None:
    """Inside the region the map is that of the region as an image of its own. Outside it has the lowest value."""
    values = GENERATOR.random((8, 8)).astype(np.float32)
    for roi in ((10, 5, 30, 45), mask_file):
        view = View(32, fit=fit, roi=roi)  # type: ignore[arg-type]
        pixels, box = view(IMAGE)
        whole = original_map(values, pixels.shape[:2], box, (40, 60), view.region)
        alone = original_map(values, pixels.shape[:2], box, (20, 40))
        assert view.region is not None
        inside = view.region.make_mask((40, 60))
        assert np.array_equal(select_inside(whole, view.region).ravel(), alone.ravel()[inside[10:30, 5:45].ravel()])
        assert (whole[~inside] == whole[inside].min()).all() and whole.shape == (40, 60)


def test_pixels_of_the_input_that_count(mask_file: Path) -> None:
    view = View((24, 48), fit="pad", roi=mask_file)  # 20 x 40 become 24 x 48
    inside = view.inside((24, 48), (0, 0, 24, 48))
    assert inside is not None and not inside[:12, :24].any() and inside[12:].all() and inside[:, 24:].all()
    cropped = View(40, crop=32, roi=mask_file)
    _, box = cropped(IMAGE)
    inside, (top, left, bottom, right) = cropped.inside((32, 32), box), visible_box(box, (32, 32))
    assert inside is not None and inside.shape == (bottom - top, right - left) == (32, 32)
    assert not inside[:16, :16].any() and inside[16:].all() and inside[:, 16:].all()
    assert View(32, roi=(1, 2, 3, 4)).inside((32, 32), (0, 0, 32, 32)) is None
    assert View(32).inside((32, 32), (0, 0, 32, 32)) is None


def test_a_crop_without_the_region_is_refused(tmp_path: Path) -> None:
    corners = np.zeros((40, 40), bool)
    corners[:4, :4] = corners[-4:, -4:] = True
    Image.fromarray(corners).save(tmp_path / "roi.png")
    view = View(40, crop=16, roi=tmp_path / "roi.png")
    _, box = view(IMAGE[:40, :40])
    with pytest.raises(UserError, match=r"^view.crop 16 leaves nothing of view.roi$"):
        view.inside((16, 16), box)


def test_a_thin_region_does_not_vanish() -> None:
    mask = np.zeros((100, 100), bool)
    mask[0], mask[-1] = True, True
    small = Roi((0, 0, 100, 100), mask).resize_mask((4, 4))
    assert small is not None and small.tolist() == [[True] * 4, [False] * 4, [False] * 4, [True] * 4]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-1, 0, 4, 4), (0, 4, 4, 2), (1, 2, 3)])
def test_empty_boxes_are_refused(box: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"view.roi is \[.*\], but a box is \[top, left, bottom, right\]"):
        View(32, roi=box)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused(mask_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image of 20x60 .* mask of view.roi, which is 40x60"):
        View(32, roi=mask_file)(IMAGE[:20])
    with pytest.raises(UserError, match=r"image of 20x60 .* does not hold view.roi \[10, 5, 30, 45\]"):
        View(32, roi=(10, 5, 30, 45))(IMAGE[:20])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match=r"black.png, the mask of view.roi, is black"):
        encode_mask(tmp_path / "black.png")
    with pytest.raises(UserError, match=r"cannot read .*nowhere.png"):
        View(32, roi=tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"view.window is \[5, 5\], but it must be \[low, high\]"):
        View(32, window=(5, 5))
    with pytest.raises(UserError, match=r"view.window is auto, and only a training computes it"):
        _ = View(32, window="auto").levels
