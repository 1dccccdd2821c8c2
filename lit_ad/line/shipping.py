"""Ship a version of a detector: copy it to DIR/detector.ckpt, and record it. DIR is the journal's folder."""

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
FOLDER = "detectors"  # DIR/detectors/N is the run of a grown version
IMAGES = "images.csv"  # in DIR/detectors/N: the training, held-out and test images of that version


def find_next_folder(folder: Path) -> Path:
    """Return DIR/detectors/N with the first N that does not exist yet."""
    number = 1
    while (folder / FOLDER / str(number)).exists():
        number += 1
    return folder / FOLDER / str(number)


def find_images(folder: Path, version: Version) -> Path | None:
    """Return the path of the table with a version's training, held-out and test images. None: there is no table."""
    parts = () if version.file is None else Path(version.file).parts
    file = folder.joinpath(*parts[:2], IMAGES)
    return file if parts[:1] == (FOLDER,) and file.is_file() else None


def find_file(folder: Path, version: Version) -> Path:
    """Return the path of a version's checkpoint. Raises UserError if it is gone."""
    if version.file is None or not (folder / version.file).is_file():
        raise UserError(f"version {version.id} has no file in {folder}: it can be neither shipped nor compared")
    return folder / version.file


def find_version(folder: Path, number: int) -> Version:
    """Return the version whose id is `number`."""
    return next(version for version in _list_versions(folder) if version.id == number)


def find_shipped_version(folder: Path) -> Version | None:
    """Return the version that is DIR/detector.ckpt. None: no version was shipped yet."""
    return next((version for version in _list_versions(folder) if version.state == "shipped"), None)


def _list_versions(folder: Path) -> list[Version]:
    file = JournalFile(folder, alone=False)
    try:
        return Versions(file).all()
    finally:
        file.close()


@contextmanager
def undo_on_failure(folder: Path) -> Iterator[None]:
    """If the block fails or is stopped, remove the versions and the folders of versions that it made."""
    home = folder / FOLDER
    before = {version.id: version for version in _list_versions(folder)}
    folders = set(home.iterdir()) if home.is_dir() else set()
    try:
        yield
    except BaseException:
        new_folders = [path for path in (home.iterdir() if home.is_dir() else ()) if path not in folders]
        for path in new_folders:
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
                        continue  # its file was not removed
                    if version.id in before or version.id in judged:
                        versions.set_file(version.id, None)
                    else:
                        versions.remove(version.id)
        finally:
            file.close()
        raise


def link_or_copy(file: Path, place: Path) -> None:
    """Give a file a second name by a hard link; on another disk, copy it."""
    with atomic_write(place) as temporary:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def ship(folder: Path, number: int, why: str) -> Path:
    """Replace DIR/detector.ckpt by a version, in one step, and record the event.

    Args:
        folder: DIR of the journal.
        number: The id of the version.
        why: The reason, for the journal.

    Returns:
        The path DIR/detector.ckpt.

    Raises:
        UserError: The version's file is gone, or DIR/detector.ckpt cannot be written.
    """
    file = JournalFile(folder, alone=False)
    try:
        versions = Versions(file)
        version = next(each for each in versions.all() if each.id == number)
        link_or_copy(find_file(folder, version), folder / SHIPPED)
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
    """Ship the version again that was shipped before the present one. Return it.

    Raises:
        UserError: No version is shipped, or no version was shipped before.
    """
    versions = {version.id: version for version in _list_versions(folder)}
    shipped = next((version for version in versions.values() if version.state == "shipped"), None)
    before = None if shipped is None or shipped.parent is None else versions.get(shipped.parent)
    if shipped is None or before is None:
        raise UserError(f"there is nothing to go back to in {folder}: lit-ad journal {folder} lists its versions")
    ship(folder, before.id, f"back from version {shipped.id}")
    return before


def remember(folder: Path, number: int, original: Path) -> None:
    """Keep a version's checkpoint in DIR/detectors/N if it lies outside DIR, so that a rollback can ship it again."""
    known = find_version(folder, number)
    if known.file is not None and (folder / known.file).is_file():
        return
    if original.is_relative_to(folder):
        relative = original.relative_to(folder)
    else:
        place = find_next_folder(folder) / SHIPPED
        link_or_copy(original, place)
        relative = place.relative_to(folder)
    file = JournalFile(folder, alone=False)
    try:
        with file.transaction():
            Versions(file).set_file(number, relative.as_posix())
    finally:
        file.close()
