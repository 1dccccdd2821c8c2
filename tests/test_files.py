"""Files are written whole or not at all, and paths and caches are where they should be."""

import os
import pickle
import pwd
import tempfile
import threading
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_ad.errors import UserError
from lit_ad.files import (
    Writers,
    atomic_write,
    cache_directory,
    check_writable,
    explain_write_errors,
    format_bytes,
    resolve_path,
    resolve_paths,
    run_directory,
    sync_folder,
)


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
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


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with pytest.raises(KeyError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError("a bug, which stays what it is")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
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


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00fc" * 127):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("whole", encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == "whole"


def test_all_processes_use_the_run_directory_of_the_first(tmp_path: Path) -> None:
    strategy = SimpleNamespace(broadcast=lambda mine: tmp_path / "of the first")
    assert run_directory(SimpleNamespace(strategy=strategy, default_root_dir="mine")) == tmp_path / "of the first"


def test_a_path_has_neither_tilde_nor_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    monkeypatch.chdir(tmp_path / "far")
    home = tmp_path / "home"
    for path, expected in {
        **{"~": home, "~/a": home / "a", "~/a/../b": home / "b"},
        **{"..": tmp_path, "../x/..": tmp_path, "a": tmp_path / "far/a", ".": tmp_path / "far"},
        **{str(tmp_path / "link/a"): tmp_path / "link/a", str(tmp_path / "link/../a"): tmp_path / "far/a"},
        **{
            "../link": tmp_path / "link",
            "a~": tmp_path / "far/a~",
            "~nobody_of_this_name": tmp_path / "far/~nobody_of_this_name",
        },
    }.items():
        assert resolve_path(path) == resolve_path(Path(path)) == expected
    assert resolve_path("~/a", tmp_path) == home / "a" and resolve_path("../a", tmp_path / "b") == tmp_path / "a"


def test_paths_in_a_configuration_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = Namespace(
        root=Path("data/../images"),
        ckpt_path="~/best.ckpt",
        name="../a text",
        rate=0.5,
        loggers=[Namespace(init_args=Namespace(save_dir="~/logs")), None],
        sources={"mine": {"init_args": {"root": "~"}}},
    )
    assert resolve_paths(config) is config
    assert config == Namespace(
        root=tmp_path / "images",
        ckpt_path=f"{tmp_path}/best.ckpt",
        name="../a text",
        rate=0.5,
        loggers=[Namespace(init_args=Namespace(save_dir=f"{tmp_path}/logs")), None],
        sources={"mine": {"init_args": {"root": str(tmp_path)}}},
    )


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of a user without a home directory and without an entry in passwd."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_caches_without_a_home_directory(homeless: Path) -> None:
    with pytest.raises(UserError, match=r"^~/a: there is no home directory; set HOME, or give the whole path"):
        resolve_path("~/a")
    with pytest.warns(UserWarning, match=f"caches are kept in {homeless}/lit_ad-"):
        folder = cache_directory()
    assert folder.parent == homeless and folder.stat().st_mode & 0o777 == 0o700
    with pytest.warns(UserWarning, match="no home directory"):
        assert cache_directory() == folder


def test_caches_if_the_home_directory_cannot_be_written_to(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is so in a container whose user is only a number: HOME is /."""
    (homeless / "home").mkdir()
    monkeypatch.setenv("HOME", str(homeless / "home"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and access(path, mode))  # root may write there
    with pytest.warns(UserWarning, match="no home directory to write to"):
        assert cache_directory().parent == homeless
    (homeless / "home/.cache/lit_ad").mkdir(parents=True)  # it may hold what is only to be read
    assert cache_directory() == homeless / "home/.cache/lit_ad"


def test_a_folder_of_another_user_is_not_used_for_caches(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (homeless / "lit_ad-12345").mkdir()
    with pytest.raises(UserError, match=r"lit_ad-12345 belongs to another user: set XDG_CACHE_HOME"):
        cache_directory()


def test_the_usual_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "lit_ad"
    for unset in (partial(monkeypatch.setenv, value=""), monkeypatch.delenv):
        unset("XDG_CACHE_HOME")
        assert cache_directory() == Path.home() / ".cache/lit_ad"


def test_a_folder_is_flushed_to_disk(tmp_path: Path) -> None:
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


def test_writers_do_all_jobs_without_waiting_and_raise_the_first_error(tmp_path: Path) -> None:
    writers, gate = Writers(2), threading.Event()
    done: list[int] = []

    def job(number: int) -> None:
        gate.wait(60)
        done.append(number)

    writers.submit(done.append, -1)  # the first job is done alone: `threads.Pool`
    for number in range(8):  # as many as may wait
        writers.submit(job, number)
    assert done == [-1]
    late = threading.Thread(target=writers.submit, args=(job, 8))
    late.start()
    late.join(0.2)
    assert late.is_alive()  # memory is bounded: it waits for one of them
    gate.set()
    late.join(60)
    writers.finish()
    assert sorted(done) == list(range(-1, 9))

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


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new/folder"):
        check_writable(folder, "cache.directory")
        assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "inside", Path("/proc/x")):
        with pytest.raises(UserError, match=rf"^cannot write {folder}: .*; give another cache.directory$"):
            check_writable(folder, "cache.directory")
    assert list(tmp_path.iterdir()) == [file]


def test_write_errors_name_the_path_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path}: Is a directory$"), explain_write_errors(tmp_path):
        tmp_path.open("w")
    with pytest.raises(KeyError), explain_write_errors(tmp_path):
        raise KeyError("a bug")
