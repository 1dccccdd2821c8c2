"""DIR/detector.ckpt of a journal: the detector that is shipped, of the versions that lie beside one another."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Version, Versions
from lit_ad.errors import UserError
from lit_ad.files import atomic_write

SHIPPED = "detector.ckpt"
FOLDER = "detectors"  # DIR/detectors/N, the run of each version that was grown


def new_folder_of(folder: Path) -> Path:
    """DIR/detectors/N, the first that is free."""
    number = 1
    while (folder / FOLDER / str(number)).exists():
        number += 1
    return folder / FOLDER / str(number)


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
        if version.file is None or not (folder / version.file).is_file():
            raise UserError(f"version {number} has no file in {folder}: it cannot be shipped")
        take_copy(folder / version.file, folder / SHIPPED)
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
    """Ship the version again that the shipped one grew from. Return it.

    Raises:
        UserError: None is shipped, or it has grown from none.
    """
    file = JournalFile(folder, alone=False)
    versions = {version.id: version for version in Versions(file).all()}
    file.close()
    shipped = next((version for version in versions.values() if version.state == "shipped"), None)
    before = None if shipped is None or shipped.parent is None else versions.get(shipped.parent)
    if shipped is None or before is None:
        raise UserError(f"there is nothing to go back to in {folder}: lit-ad journal {folder} lists its versions")
    ship(folder, before.id, f"back from version {shipped.id}")
    return before


def remember(folder: Path, number: int, original: Path) -> None:
    """Keep the file of a version that lies elsewhere in DIR/detectors/N, so that there is a way back to it."""
    file = JournalFile(folder, alone=False)
    try:
        known = next(each for each in Versions(file).all() if each.id == number)
        if known.file is not None and (folder / known.file).is_file():
            return
        if original.is_relative_to(folder):
            relative = original.relative_to(folder)
        else:
            place = new_folder_of(folder) / SHIPPED
            take_copy(original, place)
            relative = place.relative_to(folder)
        with file.transaction(), suppress(KeyError):
            file.connection.execute("UPDATE versions SET file = ? WHERE id = ?", (relative.as_posix(), number))
    finally:
        file.close()
