"""Download a published archive, check its SHA-256, and extract it to a folder that is complete or absent.

requests does the HTTP. Resuming a broken download is our own code, because pooch starts anew, and huggingface_hub's
http_get (2.4) loses up to 10 MB at each break, gives up on a 503, and takes the server's answer to a complete part
(416) for an error. Extraction is our own code too, because shutil.unpack_archive silently skips members of a zip that
lie outside of the folder.
"""

import hashlib
import lzma
import shutil
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import requests
from tqdm import tqdm

from lit_ad.errors import UserError
from lit_ad.files import format_bytes

ATTEMPTS = 5  # attempts in a row without a new byte before the download fails
PAUSE = 1.0  # seconds of waiting after the first such attempt; each further attempt doubles them
TIMEOUT = 30.0  # seconds without a byte before an attempt fails
PIECE = 1 << 16  # bytes written at a time; an incomplete piece is lost when the connection breaks


class _Interrupted(Exception):
    """An attempt failed, and another one may succeed."""


def download(url: str, target: Path, sha256: str) -> None:
    """Download a file to `target`, and check its SHA-256. An incomplete download is kept as TARGET.part.

    Raises:
        UserError: The server does not have the file, the connection breaks ATTEMPTS times without a new byte, the disk
            is full, or the file has another checksum.
    """
    if target.is_file():
        _check_sha256(target, sha256, f"the file {target}", "remove it, and run the same command again")
        return
    part = target.with_name(f"{target.name}.part")
    failures = 0
    while True:
        before = _count_bytes(part)
        try:
            _fetch_rest(url, part)
            break
        except _Interrupted as error:
            failures = 0 if _count_bytes(part) > before else failures + 1
            if failures == ATTEMPTS:
                begun = format_bytes(_count_bytes(part))
                raise UserError(
                    f"the download of {url} broke off: {error}; {part} has the first {begun}: run the same command "
                    "again to continue"
                ) from error
            time.sleep(PAUSE * 2 ** max(0, failures - 1))
        except OSError as error:
            raise UserError(f"cannot write {part}: {error}") from error
    try:
        _check_sha256(part, sha256, f"the file from {url}", "it was removed; try again, or ask its owners")
    except UserError:
        part.unlink()
        raise
    part.replace(target)


def _count_bytes(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is no file."""
    return path.stat().st_size if path.is_file() else 0


def _fetch_rest(url: str, part: Path) -> None:
    """Append the bytes that `part` lacks, in one attempt.

    Raises:
        _Interrupted: The attempt failed, and another one may succeed.
        UserError: No attempt would succeed.
    """
    offset = _count_bytes(part)
    headers = {"Accept-Encoding": "identity"}  # uncompressed, so that the range counts bytes of the file
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # the part is complete, or of another file: the checksum will tell
                return
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _Interrupted(f"the server answers {answer.status_code} {answer.reason}")
            if answer.status_code not in (200, 206):
                raise UserError(f"cannot download {url}: the server answers {answer.status_code} {answer.reason}")
            if answer.status_code == 200:  # the server knows no ranges, and sends the whole file
                offset = 0
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                raise UserError(f"{url} sends another part than requested: remove {part}, and run this again")
            size = offset + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
            append(answer, part, offset, size)
    except requests.RequestException as error:
        raise _Interrupted(f"{type(error).__name__} {error}") from error
    if size is not None and _count_bytes(part) < size:
        raise _Interrupted(f"the connection closed after {format_bytes(_count_bytes(part))} of {format_bytes(size)}")


def append(answer: requests.Response, part: Path, offset: int, size: int | None) -> None:
    """Write an answer's bytes to a file, after its first `offset` bytes.

    Args:
        answer: The server's answer, whose body has not been read.
        part: The file.
        offset: Number of bytes in the file that are kept: all of them, or 0.
        size: Bytes of the complete file. None: unknown.

    Raises:
        UserError: The disk has no room for the bytes.
    """
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - offset > free:
        raise UserError(f"{part} needs {format_bytes(size - offset)} more, but its disk has {format_bytes(free)} left")
    bar = tqdm(desc=part.stem, total=size, initial=offset, unit="B", unit_scale=True, leave=False, disable=None)
    with part.open("ab" if offset else "wb") as file, bar:
        for piece in answer.iter_content(PIECE):
            file.write(piece)
            bar.update(len(piece))


def _check_sha256(path: Path, sha256: str, name: str, remedy: str) -> None:
    """Raise UserError, with the name and the remedy, if a file has another SHA-256 than `sha256`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(f"{name} is not the expected one: its SHA-256 is {digest}, not {sha256}; {remedy}")


def extract(archive: Path, target: Path) -> None:
    """Extract a tar (of any compression) or a zip to a new folder.

    A temporary folder beside the new one is filled first, and renamed at the end.

    Raises:
        UserError: The archive is damaged or has a member that would lie outside of the folder; or the disk is full.
    """
    scratch = target.with_name(f".{target.name}.partial")
    try:
        if scratch.exists():  # left by a process that was killed
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        if archive.suffix == ".zip":
            _unzip(archive, scratch)
        else:
            _untar(archive, scratch)
        scratch.rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(f"cannot extract {archive}: {error}; remove it, and download it again") from error
    except OSError as error:
        raise UserError(f"cannot extract {archive} to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _untar(archive: Path, folder: Path) -> None:
    """Extract a tar. Raises tarfile.TarError on a file or a link that leads out of the folder."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot extract tar files safely: use 3.11.4 or newer")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    """Extract a zip. Raises zipfile.BadZipFile on a file that would lie outside of the folder.

    Links need no check: zipfile writes them as text files.
    """
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise zipfile.BadZipFile(f"{name!r} would lie outside of the folder")
        file.extractall(folder)
