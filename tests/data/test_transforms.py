import numpy as np
import pytest

from lit_ad.data.transforms import A, Augment, Resize, fill


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_stretch() -> None:
    image, box = Resize(64)(picture(30, 50))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and box == (0, 0, 64, 64)
    image, box = Resize((32, 80))(picture(30, 50))
    assert image.shape == (32, 80, 3) and box == (0, 0, 32, 80)


def test_own_size_is_left_alone() -> None:
    original = picture(30, 50)
    image, box = Resize(None)(original)
    assert np.array_equal(image, original) and box == (0, 0, 30, 50)


def test_pad_keeps_the_aspect_ratio_and_centres() -> None:
    image, box = Resize(64, fit="pad")(picture(100, 50))
    assert image.shape == (64, 64, 3) and box == (0, 16, 64, 48)
    content, whole = Resize((64, 32))(picture(100, 50))
    assert np.array_equal(image[:, 16:48], content) and whole == (0, 0, 64, 32)
    assert np.array_equal(image[:, 15], image[:, 17])  # reflection without the edge
    assert np.array_equal(image[:, 48], image[:, 46])


def test_pad_of_a_thin_image_reflects_more_than_once() -> None:
    image, box = Resize(64, fit="pad")(picture(200, 4))
    assert image.shape == (64, 64, 3) and box[3] - box[1] == 1


def test_multiple() -> None:
    image, box = Resize(256, multiple=14)(picture(30, 50))
    assert image.shape == (266, 266, 3) and box == (5, 5, 261, 261)
    image, box = Resize(None, multiple=16)(picture(30, 50))
    assert image.shape == (32, 64, 3) and box == (1, 7, 31, 57)
    assert Resize(256, multiple=16)(picture(30, 50))[1] == (0, 0, 256, 256)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_is_antialiased(interpolation: str) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = Resize(32, interpolation=interpolation)(stripes)
    assert np.abs(image[4:-4, 4:-4].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [0, (0, 5), (1, 2, 3), ()])
def test_impossible_sizes(size: object) -> None:
    with pytest.raises(ValueError, match="image_size is"):
        Resize(size)


def test_fill_at_the_bottom_and_right() -> None:
    original = picture(4, 5)
    image = fill(original, (6, 7))
    assert np.array_equal(image, np.pad(original, ((0, 2), (0, 2), (0, 0)), mode="reflect"))


def test_augmentations_depend_on_the_key_alone() -> None:
    image, augment = picture(32, 32), Augment([A.RandomBrightnessContrast(p=1), A.OneOf([A.GaussNoise(), A.Blur()])])
    once = augment(image, (0, 1, 2))
    other = augment(image, (0, 1, 3))
    assert np.array_equal(augment(image, (0, 1, 2)), once) and not np.array_equal(once, other)


def test_transforms_of_one_list_draw_independently() -> None:
    image, augment = picture(8, 8), Augment([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    results = {augment(image, (0, 0, i)).tobytes() for i in range(40)}
    assert len(results) == 4


def test_augmentations_must_keep_uint8() -> None:
    with pytest.raises(ValueError, match=r"data.augment must keep images uint8"):
        Augment([A.Normalize()])(picture(8, 8), (0,))
