"""Files that are not as they were written are refused: a network with damaged weights still gives scores.

A file of torch.save or torch.export is a zip archive, which keeps a CRC-32 of each member; torch does not look at it.
Other files carry a SHA-256 of their own bytes but its 64 digits, which follow `_MARK`.
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
DIGEST = "digest"  # the key of it, where a file has keys
BLANK = (_MARK + b"0" * 64).decode()  # to be written somewhere in a file that `seal` fills in
_CHUNK = 2**20
REMEDY = "copy it again from where it came, or make it anew"


def check_zip(file: Path | BinaryIO, name: str | Path, strict: bool = True) -> None:
    """Compare each member of a zip archive with its CRC-32: 0.3 s for each GiB on one core.

    Args:
        file: The archive.
        name: What messages call it.
        strict: Whether a file that is no zip archive, or one without CRCs, is refused. torch saved other files before
            version 1.6, and leaves out the CRCs if it is told to.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            with_crc = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if strict or with_crc else None
    except Exception as error:  # of a damaged archive, zipfile raises all sorts
        if not strict and not zipfile.is_zipfile(file):
            return
        raise UserError(f"{name} is damaged or incomplete ({first_line(error)}): {REMEDY}") from error
    if damaged is not None:
        raise UserError(f"{name} is damaged: {damaged} in it does not have its checksum; {REMEDY}")


def zip_fingerprint(file: Path) -> str:
    """Return a digest of what a zip archive says that it holds: the names, sizes and CRC-32 of its members."""
    with zipfile.ZipFile(file) as archive:
        members = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    return hashlib.sha256(repr(sorted(members)).encode()).hexdigest()


def seal(file: Path, *parts: Path) -> None:
    """Write the digest of a file that holds `BLANK`, and of the other files that belong to it, into the file."""
    place, _, digest = _digests(file, *parts)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(digest)


def check_seal(file: Path, *parts: Path) -> str:
    """Compare a file, and the other files that belong to it, with the digest in it: 0.6 s for each GiB on one core.

    Returns:
        The digest.

    Raises:
        UserError: They changed since they were written, one of them is missing, or there is no digest.
    """
    _, written, digest = _digests(file, *parts)
    if written != digest:
        names = " or ".join(map(str, (file, *parts)))
        raise UserError(
            f"{names} is damaged or was changed: the digest in {file.name} is that of other bytes; {REMEDY}"
        )
    return digest.decode()


def _digests(file: Path, *parts: Path) -> tuple[int, bytes, bytes]:
    """Where the digest of a file stands, its digits, and those that it should have.

    Raises:
        UserError: A file cannot be read, or carries no digest.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(_MARK) + len(_MARK)
            if start < len(_MARK):
                raise ValueError("no digest")
            digest = hashlib.sha256()
            for first, last in ((0, start), (start + 64, len(content))):
                for at in range(first, last, _CHUNK):
                    digest.update(content[at : min(at + _CHUNK, last)])
            written = content[start : start + 64]
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except ValueError as error:  # mmap's, of an empty file, too
        raise UserError(f"{file} was not exported by lit_ad, or is damaged: it carries no digest of itself") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or file}: {error.strerror}; {REMEDY}") from error
    return start, written, digest.hexdigest().encode()


def why_unreadable(error: Exception) -> str:
    """The reason in a reader's error, in one line.

    Of a pickle that torch refuses, the name of what is in it: the texts of torch and timm say how to load the file
    nevertheless, which could run any code.
    """
    cause = error.__cause__ or error
    if isinstance(cause, pickle.UnpicklingError):
        name = re.search(r"GLOBAL (\S+)", str(cause))
        what = f"{name[1]}, which is" if name else "something that is"
        return f"it holds {what} neither a tensor nor a plain value, and loading it could run code"
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Of its text, at most 200 characters. OpenVINO's begins with places in its source code, which are left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception from ")]
    return next(iter(told or lines), "")[:200]
