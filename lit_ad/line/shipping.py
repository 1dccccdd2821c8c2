"""Ship a version of a detector: copy it to DIR/detector.ckpt, and record it. DIR is the journal's folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Version, Versions
from lit_ad.detector.card import Card
from lit_ad.errors import UserError
from lit_ad.files import atomic_write

SHIPPED = "detector.ckpt"
FOLDER = "detectors"  # DIR/detectors/N is the run of a grown version
IMAGES = "images.csv"  # in DIR/detectors/N: the training, held-out and test images of that version
# Facts of the journal, as JSON:
_SHIPPING = "shipping"  # the version that is being shipped, why, and whether it is a rollback
_EARLIER = "shipped earlier"  # the versions that rollbacks ship, the next one last


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
        if version.file is None:
            why = "since it was served from another place: serve its own file"
        else:
            why = f"to ship it or to compare with it: bring {version.file} back, or begin a new journal"
        raise UserError(f"version {version.id} has no file in {folder}, {why}")
    return folder / version.file


def find_version(folder: Path, number: int) -> Version:
    """Return the version whose id is `number`. Raises UserError if there is none."""
    for version in list_versions(folder):
        if version.id == number:
            return version
    raise UserError(f"{folder} has no version {number}: lit-ad journal {folder} lists its versions")


def find_same_version(folder: Path, card: Card) -> Version | None:
    """Return the version that is the same detector. None: there is none, or its file is gone."""
    file = JournalFile(folder, alone=False)
    try:
        version = Versions(file).find(card)
    finally:
        file.close()
    return version if version and version.file is not None and (folder / version.file).is_file() else None


def find_shipped_version(folder: Path) -> Version | None:
    """Return the version that is DIR/detector.ckpt. None: no version was shipped yet."""
    return next((version for version in list_versions(folder) if version.state == "shipped"), None)


def list_versions(folder: Path) -> list[Version]:
    """Return all versions of a journal in the order of their ids."""
    file = JournalFile(folder, alone=False)
    try:
        return Versions(file).all()
    finally:
        file.close()


def _copy(file: Path, place: Path) -> None:
    """Copy a file. A second name for it, by a hard link, would let `cp NEW DIR/detector.ckpt` change a kept version."""
    with atomic_write(place) as temporary:
        shutil.copyfile(file, temporary)


def ship(folder: Path, number: int, why: str, back: bool = False) -> Path:
    """Replace DIR/detector.ckpt by a version, in one step, and record the event.

    If the process is killed in the middle, `finish_shipping` does the rest.

    Args:
        folder: DIR of the journal.
        number: The id of the version.
        why: The reason, for the journal.
        back: Whether this is a rollback, so that the next rollback goes further back.

    Returns:
        The path DIR/detector.ckpt.

    Raises:
        UserError: The version's file is gone, or DIR/detector.ckpt cannot be written.
    """
    file = JournalFile(folder, alone=False)
    try:
        find_file(folder, find_version(folder, number))
        file.save_fact(_SHIPPING, json.dumps([number, why, back]))
        _ship(folder, file, number, why, back)
    finally:
        file.close()
    return folder / SHIPPED


def is_shipping(file: JournalFile) -> bool:
    """Whether a version is being shipped: now, or by a process that was killed."""
    return file.fact(_SHIPPING) is not None


def finish_shipping(folder: Path) -> int | None:
    """Ship the version whose shipping was killed in the middle, and return its id. None: there is no such version."""
    file = JournalFile(folder, alone=False)
    try:
        number, *others = json.loads(file.fact(_SHIPPING) or "[null]")
        if number is not None:
            _ship(folder, file, number, *others)
    except UserError:  # the version's file is gone: DIR/detector.ckpt stays as it is
        file.remove_fact(_SHIPPING)
        return None
    finally:
        file.close()
    return None if number is None else int(number)


def _ship(folder: Path, file: JournalFile, number: int, why: str, back: bool = False) -> None:
    """Write DIR/detector.ckpt, and then the states of the versions. Raises UserError if it cannot be written."""
    try:
        _copy(find_file(folder, find_version(folder, number)), folder / SHIPPED)
    except UserError:  # DIR/detector.ckpt is as it was
        file.remove_fact(_SHIPPING)
        raise
    versions = Versions(file)
    with file.transaction():
        earlier = _list_earlier(file)
        for other in versions.all():
            if other.state == "shipped" and other.id != number:
                versions.set_state(other.id, "retired")
                earlier = earlier[:-1] if back else [*earlier, other.id]
        file.save_fact(_EARLIER, json.dumps(earlier))
        versions.set_state(number, "shipped")
        file.add_event("shipped", None, None, f"version {number}: {why}")
        file.remove_fact(_SHIPPING)


def _list_earlier(file: JournalFile) -> list[int]:
    """Return the ids of the versions that were shipped before the present one, the last one last."""
    known = {version.id for version in Versions(file).all()}
    return [number for number in json.loads(file.fact(_EARLIER) or "[]") if number in known]


def roll_back(folder: Path) -> Version:
    """Ship the version again that was shipped before the present one; if there was none, the one it was compared with.

    The next rollback goes further back. Return the version.

    Raises:
        UserError: No version is shipped, or no version was shipped before.
    """
    shipped = find_shipped_version(folder)
    file = JournalFile(folder, alone=False)
    earlier = _list_earlier(file)
    file.close()
    number = earlier[-1] if earlier else shipped.parent if shipped else None
    if shipped is None or number is None:
        raise UserError(f"there is nothing to go back to in {folder}: lit-ad journal {folder} lists its versions")
    ship(folder, number, f"back from version {shipped.id}", back=True)
    return find_version(folder, number)


def ship_again(folder: Path, number: int) -> int:
    """Ship a version that was refused, or that another one has replaced. Return its id.

    If DIR/detector.ckpt is gone, the shipped version may be shipped again.

    Raises:
        UserError: There is no such version, it is shipped already, or its file is gone.
    """
    state = find_version(folder, number).state
    if state == "shipped" and (folder / SHIPPED).is_file():
        raise UserError(f"version {number} is {folder / SHIPPED} already")
    ship(folder, number, f"chosen by hand, it was {state}")
    return number


def register(folder: Path, card: Card, checkpoint: Path, **values: Any) -> int:
    """Enter a detector and its file into the table of versions, in one step, and return its id.

    A checkpoint outside DIR is kept in DIR/detectors/N, so that a rollback can ship it again.

    Args:
        folder: DIR of the journal.
        card: The detector's card.
        checkpoint: The detector's file.
        **values: State, parent and report, as of `Versions.register`.

    Raises:
        UserError: The file cannot be written.
    """
    file = JournalFile(folder, alone=False)
    try:
        versions = Versions(file)
        known = versions.find(card)
        if known is None or known.file is None or not (folder / known.file).is_file():
            place = checkpoint
            if not checkpoint.is_relative_to(folder):
                place = find_next_folder(folder) / SHIPPED
                _copy(checkpoint, place)
            values["file"] = place.relative_to(folder).as_posix()
        with file.transaction():
            return versions.register(card, **values)
    finally:
        file.close()
