"""Undo growths that were not finished, so that DIR, the journal's folder, has all of a grown version or nothing of it.

A growth first writes into the journal which versions DIR has. If the growth fails, it removes what it made since. If it
is killed, the next command does so. A command knows that a growth was killed, and does not run any more, by the lock on
DIR/growth.sqlite: the system releases it when the process ends, in whatever way.
"""

import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_ad.deploy.journal_file import JournalFile, explain_journal_errors, lock_file
from lit_ad.deploy.versions import Versions
from lit_ad.errors import UserError
from lit_ad.line.shipping import FOLDER, finish_shipping, is_shipping, list_versions

_LOCK = "growth.sqlite"
_UNFINISHED = "unfinished growth"  # a fact of the journal, as JSON: the versions' files and folders before the growth


@contextmanager
def grow_alone(folder: Path) -> Iterator[None]:
    """Undo what a killed growth left, and keep other growths out of DIR during the block.

    Raises:
        UserError: Another growth runs in DIR, or the journal cannot be written.
    """
    lock = _lock(folder)
    if lock is None:
        raise UserError(f"another growth runs in {folder}: wait for its end, or stop it")
    try:
        with explain_journal_errors(folder):
            _clean_up(folder)
            yield
    finally:
        lock.close()


def clean_up(folder: Path) -> None:
    """Undo what a killed growth left in DIR, and print so. Do nothing while a growth runs.

    Raises:
        UserError: There is no journal, or a file cannot be removed.
    """
    file = JournalFile(folder, alone=False)
    finished = file.fact(_UNFINISHED) is None and not is_shipping(file)
    file.close()
    lock = None if finished else _lock(folder)
    if lock is not None:
        try:
            _clean_up(folder)
        finally:
            lock.close()


@contextmanager
def undo_on_failure(folder: Path) -> Iterator[None]:
    """If the block fails or is stopped, remove the versions and the folders of versions that it made.

    If the process is killed in the block, `clean_up` or the next `grow_alone` removes them.
    """
    folders = sorted(path.name for path in _list_folders(folder))
    before = {"files": {version.id: version.file for version in list_versions(folder)}, "folders": folders}
    file = JournalFile(folder, alone=False)
    try:
        file.save_fact(_UNFINISHED, json.dumps(before))
        yield
        file.remove_fact(_UNFINISHED)
    except BaseException:
        with suppress(OSError):  # the next command tries again
            _undo(folder)
        raise
    finally:
        file.close()


def _lock(folder: Path) -> sqlite3.Connection | None:
    """Lock DIR for a growth, until the connection is closed or the process ends. None: another growth runs in DIR."""
    try:
        return lock_file(folder / _LOCK)
    except sqlite3.Error as error:
        raise UserError(f"{folder / _LOCK} cannot be locked ({error}): make {folder} writable") from error


def _clean_up(folder: Path) -> None:
    """Undo a killed growth, or finish a killed shipping, and print so. The caller holds the lock."""
    try:
        removed = _undo(folder)
    except OSError as error:
        raise UserError(f"a growth in {folder} was killed, and what it left cannot be removed: {error}") from error
    if removed is not None:
        names = ", ".join(f"{FOLDER}/{name}" for name in removed) or "nothing"
        print(f"A growth in {folder} was killed. Removed of what it left: {names}", file=sys.stderr)
    if (number := finish_shipping(folder)) is not None:
        print(f"A shipping in {folder} was killed: version {number} is shipped now", file=sys.stderr)


def _undo(folder: Path) -> list[str] | None:
    """Remove what an unfinished growth made. Return the names of the removed folders. None: no growth is unfinished.

    Raises:
        OSError: A folder cannot be removed.
    """
    file = JournalFile(folder, alone=False)
    try:
        text = file.fact(_UNFINISHED)
        if text is None:
            return None
        before = json.loads(text)
        versions = Versions(file)
        # A version that somebody shipped while the growth ran stays as it is.
        used = {version.id: version.file for version in versions.all() if version.state in ("shipped", "retired")}
        files = [*before["files"].values(), *used.values()]
        known = {*before["folders"], *(Path(name).parts[1] for name in files if name)}
        removed = [path for path in _list_folders(folder) if path.name not in known]
        for path in removed:
            shutil.rmtree(path)
        if not known:
            with suppress(OSError):  # it does not exist
                (folder / FOLDER).rmdir()
        with file.transaction():
            judged = versions.images()
            for version in versions.all():
                if version.id in used:
                    continue
                if str(version.id) in before["files"] or version.id in judged:
                    versions.set_file(version.id, before["files"].get(str(version.id)))
                else:
                    versions.remove(version.id)
            file.remove_fact(_UNFINISHED)
        return sorted(path.name for path in removed)
    finally:
        file.close()


def _list_folders(folder: Path) -> list[Path]:
    """Return the folders of versions in DIR."""
    home = folder / FOLDER
    return list(home.iterdir()) if home.is_dir() else []
