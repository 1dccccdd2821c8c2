"""These tests measure one file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.data.audit.measurements import Header, measure_mask, read_header, read_max_value, verify_file
from lit_ad.errors import UserError
from lit_ad.image.view import View


@pytest.mark.parametrize(
    ("mode", "name", "text"),
    [
        ("1", "a.png", "1-bit grey"),
        ("L", "a.png", "8-bit grey"),
        ("P", "a.png", "8-bit palette"),
        ("RGB", "a.jpg", "8-bit RGB"),
        ("RGBA", "a.png", "8-bit RGB with alpha"),
        ("CMYK", "a.jpg", "8-bit CMYK"),
        ("I;16", "a.png", "16-bit grey"),
        ("F", "a.tiff", "32-bit grey"),
    ],
)
def test_the_header_describes_the_mode_of_an_image_in_words(tmp_path: Path, mode: str, name: str, text: str) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / name)
    header = read_header(tmp_path / name, View())
    assert header == Header((4, 6), text)
    assert (header.pixels, header.deep) == (24, mode == "I;16")


def test_a_region_of_interest_must_lie_in_the_image(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="roi"):
        read_header(tmp_path / "a.png", View(roi=(0, 0, 9, 9)))


def test_the_greatest_value_is_scaled_to_8_bits(tmp_path: Path) -> None:
    values = np.full((4, 6), 100, np.uint16)
    values[1, 2] = 257 * 77
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_max_value(tmp_path / "a.png", View()) == 77
    assert read_max_value(tmp_path / "a.png", View(window=(0, 2 * 257 * 77))) == pytest.approx(128, abs=1)
    # The window is not known yet, so the value is the greatest possible one.
    assert read_max_value(tmp_path / "a.png", View(window="auto")) == 255
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "black.png")
    assert read_max_value(tmp_path / "black.png", View(window="auto")) == 0


def test_a_file_with_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.effect_noise((60, 40), 50).save(file)
    verify_file(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png"):
        verify_file(file)


def test_the_extent_of_a_mask_equals_values_computed_by_hand(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[0, :3] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    extent = measure_mask(tmp_path / "a.png", View())
    assert extent.part == pytest.approx(3 / 24)
    assert extent.border == pytest.approx(4 / 20)  # a corner counts twice: in its row and in its column
    assert extent.inside
    assert not measure_mask(tmp_path / "a.png", View(roi=(2, 0, 4, 6))).inside
    assert measure_mask(tmp_path / "a.png", View(), above=254).part == extent.part
    assert measure_mask(tmp_path / "a.png", View(), above=255).part == 0
