"""Each file of a folder is yielded once, when it is completely written, however it got there."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("watchdog")
from lit_ad.errors import UserError
from lit_ad.line import folder as folder_module
from lit_ad.line.feed import Arrival
from lit_ad.line.folder import FolderFeed, read_change_time

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8))


@contextmanager
def watched(folder: Path, **options: Any) -> Iterator[tuple[FolderFeed, Queue[Arrival]]]:
    feed, arrivals = FolderFeed(folder, **{"settle": 0.2, **options}), Queue[Arrival]()

    def take() -> None:
        for arrival in feed:
            arrivals.put(arrival)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield feed, arrivals
    finally:
        feed.close()
        thread.join(10)
        assert not thread.is_alive()


def names(arrivals: Queue[Arrival], count: int, more: float = 0.3) -> list[str]:
    """Return the names of the next `count` arrivals, and check that no more follow."""
    listed = [arrivals.get(timeout=10).name for _ in range(count)]
    with pytest.raises(Empty):
        listed.append(arrivals.get(timeout=more).name)
    return listed


def test_present_and_new_files_are_yielded(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(("b.png", "deep/a.png")):
        PIXELS.save(tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "notes.txt").touch()
    with watched(tmp_path) as (feed, arrivals):
        assert sorted(names(arrivals, 2)) == ["b.png", "deep/a.png"]
        PIXELS.save(tmp_path / "c.png")
        PIXELS.save(tmp_path / ".hidden.png")
        (tmp_path / ".hidden.png").rename(tmp_path / "deep" / "d.png")
        assert sorted(names(arrivals, 2)) == ["c.png", "deep/d.png"]
        (tmp_path / "c.png").chmod(0o600)  # not a new image
        assert names(arrivals, 0, more=0.8) == []
        PIXELS.rotate(90).save(tmp_path / "c.png")  # a new image
        assert names(arrivals, 1) == ["c.png"] and feed.count_waiting() == 0


def test_a_file_is_yielded_only_when_it_is_closed(tmp_path: Path) -> None:
    PIXELS.save(tmp_path / ".a.png")
    content = (tmp_path / ".a.png").read_bytes()
    with watched(tmp_path) as (_, arrivals):
        with (tmp_path / "a.png").open("wb") as file:
            for part in (content[:1000], content[1000:]):
                file.write(part)
                file.flush()
                with pytest.raises(Empty):
                    arrivals.get(timeout=0.6)  # three times the time that a closed one takes
        assert names(arrivals, 1) == ["a.png"]


def test_files_without_events_are_found_by_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module.Handler, "on_any_event", lambda self, event: None)
    monkeypatch.setattr(folder_module, "LISTING_INTERVAL", 0.1)
    with watched(tmp_path) as (_, arrivals):
        PIXELS.save(tmp_path / "a.png")
        assert names(arrivals, 1) == ["a.png"]


def test_an_unreadable_file_is_yielded_again_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "RETRY_SECONDS", 1.0)
    with watched(tmp_path) as (feed, arrivals):
        (tmp_path / "a.png").write_bytes(b"half")
        first = arrivals.get(timeout=10)
        assert feed.try_again(first)
        second = arrivals.get(timeout=10)
        time.sleep(1.1)
        assert second.name == "a.png" and not feed.try_again(second)
        (tmp_path / "a.png").unlink()
        assert not feed.try_again(second)


def test_after_a_restart_only_new_files_are_yielded(tmp_path: Path) -> None:
    for name in ("old.png", "new.png", "overwritten.png"):
        PIXELS.save(tmp_path / name)
    times = {"old.png": time.time() + 1, "overwritten.png": read_change_time(tmp_path / "overwritten.png") - 1}
    with watched(tmp_path, judged=lambda name, since: times.get(name, 0) >= since) as (_, arrivals):
        assert sorted(names(arrivals, 2)) == ["new.png", "overwritten.png"]


def test_present_files_can_be_skipped(tmp_path: Path) -> None:
    PIXELS.save(tmp_path / "old.png")
    with watched(tmp_path, new_only=True) as (feed, arrivals):
        assert feed.left_out == 1
        PIXELS.save(tmp_path / "new.png")
        assert names(arrivals, 1) == ["new.png"]


def test_a_removed_folder_is_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "LISTING_INTERVAL", 0.1)
    (tmp_path / "in").mkdir()
    with watched(tmp_path / "in") as (feed, _):
        (tmp_path / "in").rmdir()
        end = time.monotonic() + 10
        while not feed.trouble and time.monotonic() < end:
            time.sleep(0.05)
        assert "in was removed" in feed.trouble


@pytest.mark.parametrize("inner", ["", "closed"])
def test_a_folder_that_cannot_be_listed_is_a_trouble_until_it_can(
    inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of a network may be away for a while, and a folder in it may be closed to this user."""
    (tmp_path / "closed").mkdir()
    PIXELS.save(tmp_path / "closed/old.png")
    scan, refused = os.scandir, tmp_path / inner

    def refuse(folder: Any) -> Any:
        if Path(folder) == refused:
            raise OSError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(folder_module, "LISTING_INTERVAL", 0.1)
    with watched(tmp_path) as (feed, arrivals):
        assert names(arrivals, 1) == ["closed/old.png"]
        for patched, trouble in ((True, f"the folder {refused} cannot be listed: Permission denied"), (False, "")):
            with monkeypatch.context() as patch:
                if patched:
                    patch.setattr(os, "scandir", refuse)
                end = time.monotonic() + 10
                while feed.trouble != trouble and time.monotonic() < end:
                    time.sleep(0.05)
                assert feed.trouble == trouble
        PIXELS.save(tmp_path / "a.png")
        assert names(arrivals, 1) == ["a.png"]  # and not the old one again


def test_a_folder_with_too_many_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(observer: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr("lit_ad.line.folder.Observer.start", refuse)
    with pytest.raises(UserError, match=r"cannot be watched \(.* limit reached\): raise fs.inotify.max_user_watches$"):
        FolderFeed(tmp_path)


def test_files_left_at_the_end_are_counted(tmp_path: Path) -> None:
    """The three are: a file that was ready, a file that could not be read, and an empty file."""
    for name, content in (("a.png", "a"), ("b.png", "b"), ("empty.png", "")):
        (tmp_path / name).write_text(content)
    feed = FolderFeed(tmp_path, settle=0.1)
    arrivals = iter(feed)
    assert feed.try_again(next(arrivals))
    feed.close()
    assert (list(arrivals), feed.count_waiting()) == ([], 3)


def test_an_empty_file_is_yielded_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is yielded so that the detector reports that it is unreadable."""
    monkeypatch.setattr(folder_module, "RETRY_SECONDS", 0.3)
    (tmp_path / "empty.png").touch()
    with watched(tmp_path) as (feed, arrivals):
        assert names(arrivals, 1) == ["empty.png"]
        assert not feed.try_again(Arrival("empty.png", tmp_path / "empty.png"))
