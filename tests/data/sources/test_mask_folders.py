from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.data.sources.mask_folders import count_colours, count_most_colours, find_masks_among, holds_masks
from tests.data.conftest import Write


@pytest.mark.parametrize(
    ("name", "beside", "masks"),
    [
        ("masks", "images", True),
        ("Mask", "dent", True),
        ("ground_truth", "dent", True),
        ("gt", "img", True),
        ("dent_mask", "dent", True),
        ("mask_dent", "dent", True),
        ("Dent-GT", "dent", True),
        ("labels", "images", True),
        ("labels", "dent", False),  # "labels" is a defect here
        ("mask_torn", "mask_dirty", False),  # both are defects of masks, which are the products
        ("scratch", "images", False),
        ("gtx", "images", False),
    ],
)
def test_a_folder_of_masks_is_recognised_by_its_name(
    tmp_path: Path, write: Write, name: str, beside: str, masks: bool
) -> None:
    folder, other = write(f"a/{name}/0.png").parent, write(f"a/{beside}/0.png").parent
    assert holds_masks(folder, [folder, other], photographs=True) == masks
    assert not holds_masks(other, [folder, other], photographs=True)
    elsewhere = write(f"b/{beside}/0.png").parent
    # Without a folder beside it, the folder is what the user says.
    assert not holds_masks(folder, [folder, elsewhere], photographs=True)


def test_a_folder_of_masks_is_recognised_by_its_colours(tmp_path: Path, write: Write, write_mask: Write) -> None:
    marked = write_mask("a/marked/0.png").parent
    empty = write("a/marked/1.png", value=0)  # a mask that marks nothing
    assert holds_masks(marked, [], photographs=True) and not holds_masks(marked, [], photographs=False)
    assert count_colours(empty) == 1 and count_colours(marked / "0.png") == 2
    assert count_most_colours(marked) == 2
    assert count_most_colours(write("a/black/0.png", value=0).parent) == 1  # photographs with the light switched off
    write("a/marked/2.png")
    assert count_most_colours(marked) == 3 and not holds_masks(marked, [], photographs=True)
    (tmp_path / "a/damaged").mkdir()
    (tmp_path / "a/damaged/0.png").write_bytes(b"")
    assert count_most_colours(tmp_path / "a/damaged") == count_most_colours(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_colours_are_counted_in_images_of_each_mode(tmp_path: Path, mode: str) -> None:
    values = np.repeat(np.array([[10, 20, 20], [10, 20, 30]], np.uint8), 4, axis=0)
    for count in (1, 2, 3):
        image = Image.fromarray(values[:, :count] if count < 3 else values)
        image = Image.fromarray(np.asarray(image).astype(np.uint16)) if mode == "I;16" else image
        if mode == "1":
            image = image.point(lambda value: 255 * (value > 10), mode="1")
        elif mode != "I;16":
            image = image.convert(mode)
        image.save(tmp_path / "a.png")
        assert count_colours(tmp_path / "a.png") == (min(count, 2) if mode == "1" else count)


def test_masks_among_images_are_found_by_their_names() -> None:
    images = [
        Path(name) for name in ("a/0.jpg", "a/0_mask.png", "a/1.png", "a/1_GT.bmp", "a/2_mask.png", "a/_mask.png")
    ]
    assert find_masks_among(images) == {images[0]: images[1], images[2]: images[3]}
