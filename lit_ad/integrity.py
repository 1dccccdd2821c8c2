"""Refuse files that changed since they were written, because a network with damaged weights still gives scores.

A file of torch.save or torch.export is a zip archive with a CRC-32 of each member, which torch does not check. Other
files carry the 64 digits of a SHA-256 after `_MARK`. It is the digest of all their other bytes.
"""

import hashlib
import mmap
import pickle
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from lit_ad.errors import UserError

_MARK = b"lit_ad-sha256-"
DIGEST = "digest"  # the key of the digest in files that have keys
BLANK = (_MARK + b"0" * 64).decode()  # the place for the digest in a new file, which `seal` fills in
_CHUNK = 2**20
REMEDY = "copy it again from its source, or make it anew"


def check_zip(file: Path | BinaryIO, name: str | Path, strict: bool = True) -> None:
    """Compare each member of a zip archive with its CRC-32: 0.3 s for each GiB on one core.

    Args:
        file: The archive.
        name: Its name in messages.
        strict: Whether a file that is no zip archive, or has no CRCs, is refused. torch wrote other files before
            version 1.6, and can leave out the CRCs.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            with_crc = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if strict or with_crc else None
    except Exception as error:  # for a damaged archive, zipfile raises many kinds
        if not strict and not zipfile.is_zipfile(file):
            return
        raise UserError(f"{name} is damaged or incomplete ({first_line(error)}): {REMEDY}") from error
    if damaged is not None:
        raise UserError(f"{name} is damaged: {damaged} in it does not have its checksum; {REMEDY}")


def fingerprint_zip(file: Path) -> str:
    """Return a digest of the names, sizes and CRC-32 of a zip archive's members."""
    with zipfile.ZipFile(file) as archive:
        members = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    return hashlib.sha256(repr(sorted(members)).encode()).hexdigest()


def seal(file: Path, *parts: Path) -> None:
    """Write into a file, which must contain `BLANK`, the digest of the file and of the `parts` that belong to it."""
    place, _, digest = _compute_digests(file, *parts)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(digest)


def check_seal(file: Path, *parts: Path) -> str:
    """Compare a file, and the `parts` that belong to it, with the digest in the file: 0.6 s for each GiB on one core.

    Returns:
        The digest.

    Raises:
        UserError: A file changed since it was written, one is missing, or there is no digest.
    """
    _, written, digest = _compute_digests(file, *parts)
    if written != digest:
        names = " or ".join(map(str, (file, *parts)))
        raise UserError(
            f"{names} is damaged or was changed: the digest in {file.name} is that of other bytes; {REMEDY}"
        )
    return digest.decode()


def _compute_digests(file: Path, *parts: Path) -> tuple[int, bytes, bytes]:
    """Return the place of the digest in a file, the digits there, and the right digits.

    Raises:
        UserError: A file cannot be read, or has no digest.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(_MARK) + len(_MARK)
            if start < len(_MARK):
                raise ValueError("no digest")
            digest = hashlib.sha256()
            for first, last in ((0, start), (start + 64, len(content))):
                for begin in range(first, last, _CHUNK):
                    digest.update(content[begin : min(begin + _CHUNK, last)])
            written = content[start : start + 64]
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except ValueError as error:  # no digest, or an empty file, which mmap refuses
        raise UserError(f"{file} was not exported by lit_ad, or is damaged: it carries no digest of itself") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or file}: {error.strerror}; {REMEDY}") from error
    return start, written, digest.hexdigest().encode()


def why_unreadable(error: Exception) -> str:
    """Return the reason in a reader's error, in one line.

    For a pickle that torch refuses, it is our own text with the name of the object in it. The texts of torch and timm
    explain how to load the file nevertheless, which could run any code.
    """
    cause = error.__cause__ or error
    if isinstance(cause, pickle.UnpicklingError):
        name = re.search(r"GLOBAL (\S+)", str(cause))
        content = f"{name[1]}, which is" if name else "an object that is"
        return f"it holds {content} neither a tensor nor a plain value, and loading it could run code"
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 200 characters. Places in OpenVINO's source are left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith("Exception from ")]
    return next(iter(messages or lines), "")[:200]
