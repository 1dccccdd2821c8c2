"""DIR/detector.ckpt of a journal: the detector that is shipped, of the versions that lie beside one another."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Version, Versions
from lit_ad.errors import UserError
from lit_ad.files import atomic_write

SHIPPED = "detector.ckpt"
FOLDER = "detectors"  # DIR/detectors/N, the run of each version that was grown
IMAGES = "images.csv"  # in DIR/detectors/N: what trained, decided and tested that version


def new_folder_of(folder: Path) -> Path:
    """DIR/detectors/N, the first that is free."""
    number = 1
    while (folder / FOLDER / str(number)).exists():
        number += 1
    return folder / FOLDER / str(number)


def images_of(folder: Path, version: Version) -> Path | None:
    """The table of what trained, decided and tested a version. None: it is not known."""
    parts = () if version.file is None else Path(version.file).parts
    file = folder.joinpath(*parts[:2], IMAGES)
    return file if parts[:1] == (FOLDER,) and file.is_file() else None


def file_of(folder: Path, version: Version) -> Path:
    """The file of a version. Raises UserError where it is gone."""
    if version.file is None or not (folder / version.file).is_file():
        raise UserError(f"version {version.id} has no file in {folder}: it can be neither shipped nor compared")
    return folder / version.file


def version_of(folder: Path, number: int) -> Version:
    """A version of a journal by its number."""
    return next(version for version in _versions(folder) if version.id == number)


def shipped_version(folder: Path) -> Version | None:
    """The version that is DIR/detector.ckpt. None: none was shipped yet."""
    return next((version for version in _versions(folder) if version.state == "shipped"), None)


def _versions(folder: Path) -> list[Version]:
    file = JournalFile(folder, alone=False)
    try:
        return Versions(file).all()
    finally:
        file.close()


@contextmanager
def nothing_half_made(folder: Path) -> Iterator[None]:
    """Where the block fails or is stopped, remove the versions and the folders of versions that it has made."""
    home = folder / FOLDER
    before = {version.id: version for version in _versions(folder)}
    folders = set(home.iterdir()) if home.is_dir() else set()
    try:
        yield
    except BaseException:
        made = [path for path in (home.iterdir() if home.is_dir() else ()) if path not in folders]
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        if not folders:
            with suppress(OSError):
                home.rmdir()
        file = JournalFile(folder, alone=False)
        try:
            with file.transaction():
                versions = Versions(file)
                judged = versions.images()
                for version in versions.all():
                    if version.file is None or (folder / version.file).exists():
                        continue  # not of the block, or whole
                    if version.id in before or version.id in judged:
                        versions.set_file(version.id, None)
                    else:
                        versions.remove(version.id)
        finally:
            file.close()
        raise


def take_copy(file: Path, place: Path) -> None:
    """Have a file at another place, too: as a second name of it, or as a copy on another disk."""
    with atomic_write(place) as temporary:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def ship(folder: Path, number: int, why: str) -> Path:
    """Make a version DIR/detector.ckpt, in one step. Return that path.

    Raises:
        UserError: The version's file is gone, or the path cannot be written.
    """
    file = JournalFile(folder, alone=False)
    try:
        versions = Versions(file)
        version = next(each for each in versions.all() if each.id == number)
        take_copy(file_of(folder, version), folder / SHIPPED)
        with file.transaction():
            for other in versions.all():
                if other.state == "shipped" and other.id != number:
                    versions.set_state(other.id, "retired")
            versions.set_state(number, "shipped")
            file.add_event("shipped", None, None, f"version {number}: {why}")
    finally:
        file.close()
    return folder / SHIPPED


def roll_back(folder: Path) -> Version:
    """Ship the version again that the shipped one was compared with. Return it.

    Raises:
        UserError: None is shipped, or it was compared with none.
    """
    versions = {version.id: version for version in _versions(folder)}
    shipped = next((version for version in versions.values() if version.state == "shipped"), None)
    before = None if shipped is None or shipped.parent is None else versions.get(shipped.parent)
    if shipped is None or before is None:
        raise UserError(f"there is nothing to go back to in {folder}: lit-ad journal {folder} lists its versions")
    ship(folder, before.id, f"back from version {shipped.id}")
    return before


def remember(folder: Path, number: int, original: Path) -> None:
    """Keep the file of a version that lies elsewhere in DIR/detectors/N, so that there is a way back to it."""
    known = version_of(folder, number)
    if known.file is not None and (folder / known.file).is_file():
        return
    if original.is_relative_to(folder):
        relative = original.relative_to(folder)
    else:
        place = new_folder_of(folder) / SHIPPED
        take_copy(original, place)
        relative = place.relative_to(folder)
    file = JournalFile(folder, alone=False)
    try:
        with file.transaction():
            Versions(file).set_file(number, relative.as_posix())
    finally:
        file.close()
