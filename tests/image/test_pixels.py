"""Files, arrays and Pillow images of every kind become uint8 RGB."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from lit_ad.data.masks import read_mask
from lit_ad.errors import UserError
from lit_ad.image.pixels import list_page_paths, open_image, read_image, read_upright_size, to_rgb

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)


def save_and_read(image: Image.Image, path: Path, **kwargs: Any) -> np.ndarray:
    image.save(path, **kwargs)
    return read_image(path)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "webp"])
def test_rgb(tmp_path: Path, extension: str) -> None:
    kwargs = {"lossless": True} if extension == "webp" else {}
    image = save_and_read(Image.fromarray(RGB), tmp_path / f"x.{extension}", **kwargs)
    assert image.dtype == np.uint8 and np.array_equal(image, RGB)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff"])
def test_grey(tmp_path: Path, extension: str) -> None:
    assert np.array_equal(save_and_read(Image.fromarray(GREY), tmp_path / f"x.{extension}"), GREY3)


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_exif_turns_an_image_upright(tmp_path: Path, extension: str, orientation: int, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = save_and_read(Image.fromarray(RGB), tmp_path / f"x.{extension}", exif=exif)
    assert np.array_equal(image, np.rot90(RGB, turned))


def test_exif_turns_16_bit_images_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(save_and_read(wide, tmp_path / "x.png", exif=exif), np.rot90(GREY3, 3))


def test_unreadable_and_truncated_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for extension in ("jpg", "png", "tiff", "bmp"):
        path = tmp_path / f"whole.{extension}"
        Image.fromarray(RGB).save(path)
        (tmp_path / f"half.{extension}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("text.png", "empty.png", "missing.png", "half.jpg", "half.png", "half.tiff", "half.bmp"):
        with pytest.raises(UserError, match=rf"cannot read .*{name}: .*; replace or remove it"):
            read_image(tmp_path / name)


def test_an_error_names_the_file_once_and_no_object_in_memory(tmp_path: Path) -> None:
    (tmp_path / "other.png").write_text("no image")
    reasons = {"other.png": "it is no image in a known format", "gone.png": "No such file or directory"}
    for name, reason in reasons.items():
        for read in (read_image, read_upright_size):
            with pytest.raises(UserError) as refusal:
                read(tmp_path / name)
            assert str(refusal.value) == f"cannot read {tmp_path / name}: {reason}; replace or remove it"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "tiff"])
def test_the_size_from_the_header_equals_that_of_the_pixels(tmp_path: Path, extension: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = save_and_read(Image.fromarray(RGB), tmp_path / f"x.{extension}", exif=exif)
    assert read_upright_size(tmp_path / f"x.{extension}") == image.shape[:2]


SHORT, LONG, TEXT, RATIONAL = 3, 4, 2, 5  # types of TIFF 6.0
ORIENTATIONS = [
    *((SHORT, 0), (SHORT, 9), (SHORT, 300), (SHORT, (6, 6)), (LONG, 6), (LONG, 70_000)),
    *((TEXT, "6"), (TEXT, "up"), (RATIONAL, IFDRational(6, 1)), (RATIONAL, IFDRational(13, 2))),
]


@pytest.mark.filterwarnings("ignore:Metadata Warning, tag 274")
@pytest.mark.parametrize(("kind", "orientation"), ORIENTATIONS)
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tiff"])
def test_an_odd_orientation_is_read_as_pillow_reads_it(
    tmp_path: Path, extension: str, kind: int, orientation: object
) -> None:
    """The header's size, the image and the mask agree with one another, and with `exif_transpose`."""
    tags = ImageFileDirectory_v2()
    tags.tagtype[0x0112] = kind
    tags[0x0112] = orientation
    path = tmp_path / f"x.{extension}"
    exif = b"Exif\0\0" + ImageFileDirectory_v2().prefix + b"*\0\x08\0\0\0" + tags.tobytes(8)
    more: dict[str, Any] = {"tiffinfo": tags} if extension == "tiff" else {"exif": exif}
    if extension == "webp":
        more["lossless"] = True
    Image.fromarray(GREY).save(path, **more)
    with Image.open(BytesIO(path.read_bytes())) as image:  # see `open_page`: given a path, Pillow garbles a TIFF
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(path), expected)
    assert read_mask(path, 0).shape == read_upright_size(path) == expected.shape[:2]
    with Image.open(BytesIO(path.read_bytes())) as image:
        assert np.array_equal(to_rgb(image), expected)


def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        for reader in (read_upright_size, open_image):
            with pytest.raises(UserError, match=rf"cannot read .*{name}: .*; replace or remove it"):
                reader(tmp_path / name)


def test_every_kind_of_image_gives_the_same_pixels(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    for image in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(RGB), RGB, np.dstack([RGB, ALPHA])):
        assert np.array_equal(to_rgb(image), RGB)
    for grey in (GREY, GREY[..., None], Image.fromarray(GREY), GREY.astype(np.uint16) * 257, GREY / 255):
        assert np.array_equal(to_rgb(grey), GREY3)
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(to_rgb((RGB / 255).astype(kind)), RGB)
    assert np.array_equal(to_rgb(GREY > 127), np.where(GREY3 > 127, 255, 0))
    assert to_rgb(RGB[:, ::-1]).flags["C_CONTIGUOUS"] and to_rgb(RGB.astype(np.uint16)).dtype == np.uint8


def test_a_file_and_its_array_are_the_same_image(tmp_path: Path) -> None:
    """An array is read like the file that a program would save of it."""
    arrays: list[np.ndarray] = [RGB, GREY, np.dstack([RGB, ALPHA]), GREY.astype(np.uint16) * 199, GREY > 127]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
        assert np.array_equal(to_rgb(array), read_image(tmp_path / f"{i}.png"))


def test_a_pillow_image_is_turned_upright_and_stays_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(to_rgb(image), np.rot90(RGB, 3))
        assert image.size == (30, 20)


def test_the_size_of_a_png_is_read_without_decoding_it(tmp_path: Path) -> None:
    """Pillow would decode it, because EXIF data may follow the pixels; if they do, they count."""
    path = tmp_path / "x.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[stop:end] + content[start:stop] + content[end:])
    assert read_upright_size(path) == read_image(path).shape[:2] == (60, 40)
    path.write_bytes(content[: len(content) // 2])
    assert read_upright_size(path) == (60, 40)
    with pytest.raises(UserError, match="cannot read"):
        read_image(path)


@pytest.mark.parametrize("kind", ["grey", "grey of 16 bits", "RGB, compressed"])
def test_a_path_names_a_page_of_a_tiff(tmp_path: Path, kind: str) -> None:
    stack = GENERATOR.integers(0, 256, (3, 6, 8, *([3] if kind.startswith("RGB") else []))).astype(np.uint8)
    stored = stack.astype(np.uint16) * 257 if "16" in kind else stack
    compression = "zlib" if kind.endswith("compressed") else None
    photometric = "rgb" if stack.ndim == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "stack.TIF", stored, photometric=photometric, compression=compression)
    for number, page in enumerate(stack, 1):
        path = tmp_path / f"stack.TIF#{number}"
        assert np.array_equal(read_image(path), page if page.ndim == 3 else np.repeat(page[..., None], 3, axis=2))
        assert np.array_equal(to_rgb(str(path)), read_image(path)) and read_upright_size(path) == (6, 8)
    for read in (read_image, read_upright_size):
        with pytest.raises(UserError, match=rf"^{tmp_path}/stack.TIF has 3 pages, .* name one, such as .*stack.TIF#1$"):
            read(tmp_path / "stack.TIF")
        with pytest.raises(UserError, match=rf"^{tmp_path}/stack.TIF has no page 4$"):
            read(tmp_path / "stack.TIF#4")


def test_each_page_is_turned_upright_by_itself(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for orientation in (1, 6):
            file.write(GREY, extratags=[(274, "H", 1, orientation, True)])
    height, width = GREY.shape
    assert read_upright_size(tmp_path / "x.tif#1") == read_image(tmp_path / "x.tif#1").shape[:2] == (height, width)
    assert read_upright_size(tmp_path / "x.tif#2") == read_image(tmp_path / "x.tif#2").shape[:2] == (width, height)


def test_files_with_pages_are_found(tmp_path: Path) -> None:
    page = Image.new("L", (8, 6), 7)
    stack, other, bad = (tmp_path / name for name in ("a.tiff", "b.tif", "c.tif"))
    page.save(stack, save_all=True, append_images=[page])
    assert list_page_paths(stack) == [tmp_path / "a.tiff#1", tmp_path / "a.tiff#2"]
    assert list_page_paths(tmp_path / "a.tiff#2") == [tmp_path / "a.tiff#2"]  # it is one already
    page.save(stack)
    os.utime(stack, (1, 1))  # written again
    page.save(other, save_all=True, append_images=[page.resize((4, 3))])
    bad.write_bytes(b"II*\0")
    assert [list_page_paths(path) for path in (stack, other, bad, tmp_path / "none.tif")] == [
        [stack],
        [other],
        [bad],
        [tmp_path / "none.tif"],
    ]
    with pytest.raises(UserError, match=r"b.tif has pages of different kinds, 6x8 L and 3x4 L, .* files of their own"):
        read_image(other)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_uncompressed_grey_tiff_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    """Pillow 13.0 garbles it if it may map the file into memory."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "x.tif", exif=exif)
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.tif"), read_image(tmp_path / "x.png"))


def test_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    smaller = tifffile.TiffWriter(tmp_path / "pyramid.tif")
    with smaller:
        smaller.write(np.full((16, 12), 9, np.uint8))
        smaller.write(np.full((8, 6), 9, np.uint8), subfiletype=1)
    assert read_image(tmp_path / "pyramid.tif").shape == (16, 12, 3)


def test_more_than_three_channels_are_refused(tmp_path: Path) -> None:
    values = np.full((6, 8, 4), 9, np.uint8)
    tifffile.imwrite(tmp_path / "four.tif", values, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(UserError, match=r"four.tif has more than three channels, .* keep three of them"):
        read_image(tmp_path / "four.tif")
    tifffile.imwrite(
        tmp_path / "seven.tif", np.zeros((6, 8, 7), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(UserError, match=r"seven.tif.*keep three of its channels"):
        read_image(tmp_path / "seven.tif")
