"""A shifted copy of a data set has a record of its shift."""

from pathlib import Path

import pytest

from lit_ad.data.sources.shift_record import SHIFT, read_shift
from lit_ad.errors import UserError


def test_the_record_is_read_from_the_copy_and_from_a_category_in_the_copy(tmp_path: Path) -> None:
    (tmp_path / "nut").mkdir()
    assert read_shift(tmp_path) is None
    (tmp_path / SHIFT).write_text('{"kind": "gamma", "strength": 0.5, "seed": 3}')
    assert read_shift(tmp_path) == read_shift(tmp_path / "nut") == {"kind": "gamma", "strength": 0.5, "seed": 3}


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "gamma"}', '{"kind": "gamma", "strength": "much", "seed": 0}'])
def test_a_file_that_is_no_record_of_a_shift_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / SHIFT).write_text(text)
    with pytest.raises(UserError, match=r"shift.json is no record of lit-ad data shift"):
        read_shift(tmp_path)
