"""A published archive: downloaded with resumption, verified, and extracted to a folder that is whole or not there.

requests does the HTTP. Resuming a broken download, across attempts and across runs, is our own code: pooch starts anew;
huggingface_hub's http_get (2.4) loses up to 10 MB at each break, gives up on a 503, and takes the server's answer to a
complete part (416) for an error. shutil.unpack_archive leaves out what lies outside of the folder in a zip, and says
nothing.
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

ATTEMPTS = 5  # that bring nothing, one after the other
PAUSE = 1.0  # seconds after the first of them; each doubles it
TIMEOUT = 30.0  # seconds without a byte
PIECE = 1 << 16  # bytes; what came of one when the connection breaks is lost


class _Interrupted(Exception):
    """What another attempt may mend."""


def download(url: str, target: Path, sha256: str) -> None:
    """Have the file of this checksum at `target`; until it is whole, what there is of it lies in TARGET.part.

    Raises:
        UserError: The server does not have it, the connection breaks again and again, the disk is full, or the file
            has another checksum.
    """
    if target.is_file():
        verify(target, sha256, f"{target}, which was there already", "remove it, and run the same command again")
        return
    part = target.with_name(f"{target.name}.part")
    failed = 0
    while True:
        before = length(part)
        try:
            _fetch_rest(url, part)
            break
        except _Interrupted as error:
            failed = 0 if length(part) > before else failed + 1
            if failed == ATTEMPTS:
                raise UserError(
                    f"the download of {url} broke off: {error}; {format_bytes(length(part))} of it lies in {part}: run "
                    "the same command again to go on there"
                ) from error
            time.sleep(PAUSE * 2 ** max(0, failed - 1))
        except OSError as error:
            raise UserError(f"cannot write {part}: {error}") from error
    try:
        verify(part, sha256, f"what {url} gave", "it was removed; try again, or ask who offers it")
    except UserError:
        part.unlink()
        raise
    part.replace(target)


def length(path: Path) -> int:
    """Bytes in a file, 0 of none."""
    return path.stat().st_size if path.is_file() else 0


def _fetch_rest(url: str, part: Path) -> None:
    """One attempt: append what `part` lacks. Raises Interrupted where another one may do better."""
    have = length(part)
    asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})  # bytes as they are stored
    try:
        with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing after these: they are all, or of another file, as the checksum says
                return
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _Interrupted(f"the server answers {answer.status_code} {answer.reason}")
            if answer.status_code not in (200, 206):
                raise UserError(f"{url} cannot be had: the server answers {answer.status_code} {answer.reason}")
            if answer.status_code == 200:  # a server that knows no parts sends all of it
                have = 0
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise UserError(f"{url} gives another part than was asked for: remove {part}, and run this again")
            size = have + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
            append(answer, part, have, size)
    except requests.RequestException as error:
        raise _Interrupted(f"{type(error).__name__} {error}") from error
    if size is not None and length(part) < size:
        raise _Interrupted(f"the connection closed after {format_bytes(length(part))} of {format_bytes(size)}")


def append(answer: requests.Response, part: Path, have: int, size: int | None) -> None:
    """Write an answer's bytes behind the first `have` of a file. Raises UserError if the disk has no room for them."""
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - have > free:
        raise UserError(f"{part} takes {format_bytes(size - have)} more, but its disk has {format_bytes(free)} left")
    bar = tqdm(desc=part.stem, total=size, initial=have, unit="B", unit_scale=True, leave=False)
    with part.open("ab" if have else "wb") as file, bar:
        for piece in answer.iter_content(PIECE):
            file.write(piece)
            bar.update(len(piece))


def verify(path: Path, sha256: str, name: str, remedy: str) -> None:
    """Raises UserError on another checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(f"{name} is not the file known here: its SHA-256 is {digest}, and not {sha256}; {remedy}")


def extract(archive: Path, target: Path) -> None:
    """Extract a tar (of any compression) or a zip to a new folder, by way of a temporary one beside it.

    Raises:
        UserError: It is damaged, or holds what would be written outside of the folder; or the disk is full.
    """
    scratch = target.with_name(f".{target.name}.partial")
    try:
        if scratch.exists():  # of a run that was killed
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        if archive.suffix == ".zip":
            _unzip(archive, scratch)
        else:
            _untar(archive, scratch)
        scratch.rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(f"cannot extract {archive}: {error}; remove it, and get it again") from error
    except OSError as error:
        raise UserError(f"cannot extract {archive} to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _untar(archive: Path, folder: Path) -> None:
    """Extract a tar. Raises tarfile.TarError on a file, or a link, that leads out of the folder."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot extract tar files safely: take 3.11.4 or newer")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    """Extract a zip. Raises BadZipFile on a file that would lie outside of the folder; links are files of text."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise zipfile.BadZipFile(f"{name!r} would be outside of the destination")
        file.extractall(folder)
