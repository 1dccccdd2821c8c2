"""Every kind of input gives the same pixels, and inputs that are no image are refused at once."""

import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.detector.inputs import check_image, iterate_images, list_images, name_image, read_pixels
from lit_ad.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(RGB).save(tmp_path / "part.png")
    return tmp_path / "part.png"


def test_every_kind_of_input_gives_the_same_pixels(file: Path) -> None:
    content, chw = file.read_bytes(), torch.from_numpy(RGB).permute(2, 0, 1)
    kinds: list[Any] = [str(file), file, content, bytearray(content), memoryview(content), io.BytesIO(content)]
    kinds += [Image.fromarray(RGB), RGB, chw, chw / 255, (chw / 255).double().requires_grad_()]
    kinds += [torch.cat([chw, chw[:1]])]  # of which the fourth channel is transparency
    for image in kinds:
        assert list_images(image) is None
        assert np.array_equal(read_pixels(image), RGB)
    grey = np.repeat(RGB[..., :1], 3, axis=2)
    for image in (chw[0], chw[:1], (chw[0] / 255).half(), RGB[..., 0]):
        assert np.abs(read_pixels(image).astype(int) - grey).max() <= (1 if image.dtype == torch.float16 else 0)
    with file.open("rb") as opened:
        assert np.array_equal(read_pixels(opened), RGB)


def test_a_file_in_memory_is_read_like_one_on_disk(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(tmp_path / "deep.tif")
    for path, window in (
        (tmp_path / "turned.jpg", None),
        (tmp_path / "deep.tif", None),
        (tmp_path / "deep.tif", (0, 50000)),
    ):
        assert np.array_equal(read_pixels(path.read_bytes(), window), read_pixels(path, window))
    page = Image.new("L", (9, 9))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match="image 2 has 2 pages, each of them an image: give one of them"):
        read_pixels((tmp_path / "pages.tif").read_bytes(), name="image 2")


def test_several_images(file: Path) -> None:
    batch = torch.zeros(2, 3, 10, 10)
    listed = list_images(batch)
    assert isinstance(listed, list)
    assert [tuple(image.shape) for image in listed if isinstance(image, torch.Tensor)] == [(3, 10, 10)] * 2
    assert list_images([]) == [] and list_images((RGB, file)) == list_images(deque([RGB, file])) == [RGB, file]
    endless = iter(lambda: RGB, None)
    assert list_images(endless) is endless
    for several in ([RGB, RGB], (image for image in (RGB, RGB)), {"a": RGB, "b": RGB}.values(), Images()):
        assert all(image is RGB for image in iterate_images(several))


class Images:
    def __iter__(self) -> Iterator[Any]:
        return iter((RGB, RGB))


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"^the image is None: an image is a path, bytes or a binary file, a Pillow image, an array"),
    "a number": (3, r"^the image is of type int: an image is a path"),
    "a dictionary": ({"image": RGB}, r"is of type dict: .*; give several images as a list or an iterator"),
    "an iterable": (Images(), r"is of type Images: .*; give several images as a list or an iterator"),
    "a class": (io.BytesIO, r"is of type type"),
    "None in a list": ([RGB, None], r"^image 2 is None"),
    "a list in a list": ([[RGB]], r"^image 1 is of type list"),
    "a batch in a list": ([torch.zeros(2, 3, 10, 10)], r"^image 1 is a tensor of shape \(2, 3, 10, 10\)"),
    "a batch of arrays": (
        np.zeros((2, 10, 10, 3), np.uint8),
        r"is an array of shape \(2, 10, 10, 3\): an image",
    ),
    "channels first": (np.zeros((3, 10, 12), np.uint8), r"for \(C, H, W\), give array.transpose\(1, 2, 0\)"),
    "channels last": (torch.zeros(10, 12, 3), r"\(10, 12, 3\): C, of \(C, H, W\), must be 1, 3 or 4, and W must not"),
    "channels at both ends": (torch.zeros(3, 10, 3), r"channels are last, give tensor.movedim\(-1, -3\)"),
    "batch, channels last": (torch.zeros(2, 10, 12, 3), r"^a tensor \(B, C, H, W\) has the shape \(2, 10, 12, 3\)"),
    "two channels": (torch.zeros(2, 10, 12), r"\(2, 10, 12\): C"),
    "a vector": (torch.zeros(10), r"is a tensor of shape \(10,\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_inputs_are_refused_before_anything_is_read(what: str) -> None:
    given, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        list_images(given)


UNREADABLE: dict[str, tuple[Any, str]] = {
    "other bytes": (b"no image", r"^cannot read image 5: it is no image in a known format; replace"),
    "a file of other bytes": (io.BytesIO(b"no image"), r"^cannot read image 5: it is no image in a known format"),
    "a file at its end": (io.BytesIO(), r"^cannot read image 5: the file is at its end, or empty"),
    "a file of text": (io.StringIO("x"), r"^cannot read image 5: the file gives text: open it with mode 'rb'"),
    "no pixels": (np.zeros((0, 0, 3), np.uint8), r"^image 5: an array of shape \(0, 0, 3\) has no pixels"),
    "no pixels in a tensor": (torch.zeros(3, 0, 12), r"^image 5: an array of shape \(0, 12, 3\) has no pixels"),
    "normalised": (torch.full((3, 10, 12), -2.0), r"^image 5: an array of float32 with values from -2.0 to -2.0 is no"),
    "integers": (torch.zeros(3, 10, 12, dtype=torch.int64), r"^image 5: an array of int64"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_images_are_named(what: str) -> None:
    given, message = UNREADABLE[what]
    assert list_images(given) is None
    with pytest.raises(UserError, match=message):
        read_pixels(given, name="image 5")


@pytest.mark.parametrize(
    "given", ["part.png", Path("part.png"), RGB, Image.fromarray(RGB), io.BytesIO(), b"x", None, 7]
)
def test_a_stream_needs_several_images(given: Any) -> None:
    with pytest.raises(
        UserError, match=r"^a stream needs several images: give a list|^the image is (None|of type int)"
    ):
        iterate_images(given)


def test_names_of_images_in_messages(file: Path) -> None:
    with file.open("rb") as opened:
        assert name_image(opened, 3) == name_image(Image.open(file)) == str(file)
    assert (name_image(RGB, 3), name_image(b"", 1), name_image(RGB)) == ("image 3", "image 1", "the image")
    assert name_image(b"") == name_image(memoryview(b"")) == "the image given as bytes"
    assert (name_image(io.BytesIO()), name_image(io.BytesIO(), 2)) == ("the image given as a file", "image 2")


@pytest.mark.parametrize(
    ("shape", "told"), [((1, 20, 30), True), ((3, 20, 30), True), ((4, 20, 30), True), ((2, 20, 30), False)]
)
def test_an_array_with_channels_first_gets_a_hint(shape: tuple[int, ...], told: bool) -> None:
    with pytest.raises(UserError, match=r"part\.png is an array of shape") as error:
        check_image(np.zeros(shape, np.uint8), "part.png")
    assert ("array.transpose(1, 2, 0)" in str(error.value)) is told
