"""Pictures stay within their limit, and the journal names exactly the files that exist."""

import io
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.pictures import Pictures, encode_picture
from lit_ad.errors import UserError


def save(file: JournalFile, pictures: Pictures, kept: str, size: int) -> bool:
    (number,) = file.insert([Row(0.0, "", "", "", 1.0, 0.5, "nominal", 0.1, kept, False, None)])
    saved = pictures.save(number, bytes(size), ".png")
    pictures.flush()
    return saved


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted((folder / "pictures").iterdir())}


def test_pictures_stay_within_the_limit(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    pictures = Pictures(file, 100)
    for kept, size in (("anomalous", 40), ("sample", 30), ("sample", 30), ("borderline", 50)):
        assert save(file, pictures, kept, size)
        assert sum(sizes(tmp_path).values()) == pictures.bytes_used <= 100
    assert sizes(tmp_path) == file.pictures() == {"000000001.png": 40, "000000004.png": 50}
    assert not save(file, pictures, "anomalous", 101) and sizes(tmp_path) == file.pictures()
    assert save(file, pictures, "sample", 100) and file.pictures() == {"000000006.png": 100}


def test_files_left_by_a_killed_process_are_removed(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    save(file, Pictures(file, 100), "sample", 20)
    for name in ("000000009.png", "mine.png", ".hidden"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    (tmp_path / "pictures/old").mkdir()
    assert Pictures(file, 100).bytes_used == 20
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"000000001.png", "mine.png", ".hidden", "old"}


def test_a_new_journal_takes_no_folder_of_pictures_over(tmp_path: Path) -> None:
    picture = tmp_path / "pictures/000000001.png"
    picture.parent.mkdir()
    picture.write_bytes(b"x")
    with pytest.raises(UserError, match=r"has files, such as 000000001.png, but .* has no images: give another"):
        Pictures(JournalFile(tmp_path, alone=True), 100)
    assert picture.is_file()


def test_pictures_that_somebody_deleted_have_no_names_any_more(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    pictures = Pictures(file, 100)
    for _ in range(3):
        assert save(file, pictures, "sample", 20)
    (tmp_path / "pictures/000000002.png").unlink()
    assert Pictures(file, 100).bytes_used == 40 and file.pictures() == sizes(tmp_path)
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is gone, and the journal names 2 pictures in it: move it here, or make"):
        Pictures(file, 100)
    assert len(file.pictures()) == 2
    (tmp_path / "pictures").mkdir()
    assert Pictures(file, 100).bytes_used == 0 and not file.pictures()


def test_names_are_written_together_and_before_older_pictures_go(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    pictures = Pictures(file, 1000)
    numbers = file.insert([Row(0.0, "", "", "", 1.0, 0.5, "nominal", 0.1, "sample", False, None)] * 60)
    for number in numbers[:10]:
        assert pictures.save(number, bytes(20), ".png")
    assert not file.pictures() and len(sizes(tmp_path)) == 10
    for number in numbers[10:]:
        assert pictures.save(number, bytes(20), ".png")
    pictures.flush()
    assert file.pictures() == sizes(tmp_path) and min(file.pictures()) == "000000011.png" and len(sizes(tmp_path)) == 50


def test_pictures_whose_names_cannot_be_written_are_removed(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    pictures = Pictures(file, 1000)
    save(file, pictures, "sample", 30)
    (number,) = file.insert([Row(0.0, "", "", "", 1.0, 0.5, "nominal", 0.1, "sample", False, None)])
    assert pictures.save(number, bytes(20), ".png")
    with file.transaction(), pytest.raises(sqlite3.OperationalError):  # within another transaction
        pictures.flush()
    assert pictures.forget_unnamed() == 1 and pictures.bytes_used == 30
    assert sizes(tmp_path) == file.pictures() == {"000000001.png": 30}


def test_a_png_without_compression_has_the_pixels_and_their_bytes() -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[..., 1] = 9
    (large, _), (small, _) = (encode_picture(pixels, None, compress) for compress in (False, True))
    assert len(small) < 200 and pixels.nbytes < len(large) < pixels.nbytes + 500
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(large))), pixels)


def test_a_picture_is_the_image_file_or_a_png_of_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    assert encode_picture(pixels, file.getvalue()) == (file.getvalue(), ".bmp")
    content, suffix = encode_picture(pixels, None)
    assert suffix == ".png" and np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (37, 53), (256, 300)])
@pytest.mark.parametrize("kind", ["noise", "flat", "grey", "view"])
def test_a_png_has_the_pixels(shape: tuple[int, int], kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if kind == "flat":
        pixels[:] = 7, 8, 9
    elif kind == "grey":
        pixels[:] = pixels[..., :1]
    elif kind == "view":
        pixels = pixels[::-1, :, ::-1]
    content, suffix = encode_picture(pixels, None)
    with Image.open(io.BytesIO(content)) as image:
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode, suffix) == ("PNG", "L" if kind == "grey" else "RGB", ".png")
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)
