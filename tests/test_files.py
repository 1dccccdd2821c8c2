"""Files are written whole or not at all."""

import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_ad.errors import UserError
from lit_ad.files import Writers, atomic_write, cache_directory, format_bytes, run_directory, sync_folder


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    with atomic_write(path) as temporary:
        temporary.write_text("again")
        assert path.read_text() == "whole"
    assert path.read_text() == "again"


def test_an_error_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with pytest.raises(KeyError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError("a bug, which stays what it is")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(UserError, match=rf"^cannot write {path}: .*(Not a directory|File exists)"), atomic_write(path):
        pass
    missing = tmp_path / "b.txt"
    with pytest.raises(UserError, match=rf"^cannot write {missing}"), atomic_write(missing):
        pass  # nothing was written to the temporary name


def test_processes_do_not_write_to_one_temporary_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as temporary:
        assert str(os.getpid()) in temporary.name
        assert temporary.name.startswith(".")  # which no listing of images takes for one
        temporary.touch()


def test_a_run_s_directory_is_that_of_the_first_process(tmp_path: Path) -> None:
    strategy = SimpleNamespace(broadcast=lambda mine: tmp_path / "of the first")
    assert run_directory(SimpleNamespace(strategy=strategy, default_root_dir="mine")) == tmp_path / "of the first"


def test_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "lit_ad"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_directory() == Path.home() / ".cache/lit_ad"


def test_a_folder_is_synced(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else None
    sync_folder(tmp_path)
    assert before is None or len(list(descriptors.iterdir())) == before  # none is left open
    with pytest.raises(OSError, match="No such file"):
        sync_folder(tmp_path / "nowhere")


def test_sizes_in_words() -> None:
    assert [format_bytes(size) for size in (0, 1, 2000, 2**20, 3 * 2**29)] == [
        "0 KiB",
        "1 KiB",
        "2 KiB",
        "1.0 MiB",
        "1.5 GiB",
    ]


def test_writers_do_all_wait_for_none_and_tell_the_first_error(tmp_path: Path) -> None:
    writers, gate = Writers(2), threading.Event()
    done: list[int] = []

    def job(number: int) -> None:
        gate.wait(60)
        done.append(number)

    for number in range(8):  # as many as may wait
        writers.submit(job, number)
    assert not done
    late = threading.Thread(target=writers.submit, args=(job, 8))
    late.start()
    late.join(0.2)
    assert late.is_alive()  # memory is bounded: it waits for one of them
    gate.set()
    late.join(60)
    writers.finish()
    assert sorted(done) == list(range(9))

    def fail() -> None:
        with atomic_write(tmp_path / "file" / "below"):
            pass

    (tmp_path / "file").write_text("")
    writers = Writers(1)
    writers.submit(fail)
    with pytest.raises(UserError, match="cannot write"):
        writers.finish()
    assert pickle.loads(pickle.dumps(writers)).pool is None  # as Trainers that spawn processes do with callbacks
    writers.submit(done.append, 9)  # what had failed is told, and forgotten
    writers.finish()
    assert done[-1] == 9
