"""Damaged files are refused, and files without a checksum only if they must have one."""

import datetime
from pathlib import Path

import pytest
import torch
from torch.serialization import set_crc32_options

from lit_ad.errors import UserError
from lit_ad.integrity import BLANK, check_seal, check_zip, seal, why_unreadable


def flip_byte(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_seal_covers_every_byte_of_a_file_and_its_parts(tmp_path: Path) -> None:
    file, part = tmp_path / "a.xml", tmp_path / "a.bin"
    file.write_text(f"before {BLANK} after")
    part.write_bytes(bytes(10))
    seal(file, part)
    check_seal(file, part)
    good = file.read_bytes(), part.read_bytes()
    for changed, count in ((file, len(good[0])), (part, len(good[1]))):
        for place in range(count):
            flip_byte(changed, place)
            with pytest.raises(UserError, match=rf"{file}.* damaged"):
                check_seal(file, part)
            file.write_bytes(good[0])
            part.write_bytes(good[1])
    part.unlink()
    with pytest.raises(UserError, match=rf"cannot read {part}"):
        check_seal(file, part)


def test_a_zip_without_checksums_is_refused_only_if_strict(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(10)}, tmp_path / "new.pt")
    finally:
        set_crc32_options(True)
    torch.save({"a": torch.arange(10)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        check_zip(tmp_path / name, name, strict=False)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            check_zip(tmp_path / name, name)


def test_a_pickle_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    torch.save(datetime.date(2020, 1, 1), tmp_path / "a.pt")
    with pytest.raises(Exception, match="weights_only") as error:  # torch's own kind
        torch.load(tmp_path / "a.pt", weights_only=True)
    assert why_unreadable(error.value) == (
        "it holds datetime.date, which is neither a tensor nor a plain value, and loading it could run code"
    )
    assert why_unreadable(ValueError("\none\ntwo")) == "ValueError: one"
    assert (
        why_unreadable(RuntimeError("Exception from core.cpp:84:\nno such device\n\n"))
        == "RuntimeError: no such device"
    )
    assert why_unreadable(ValueError()) == "ValueError: "
