"""Downloads from a server of our own that breaks off, knows no parts, or gives what it should not."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from lit_ad.commands import data_get, download
from lit_ad.commands.data_get import ELSEWHERE, SETS, Published
from lit_ad.commands.main import run
from lit_ad.errors import UserError

PIECE = 1 << 12
CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves files from memory; what it does wrong is taken from a list, an answer each."""

    files: dict[str, bytes]
    faults: list[Any]  # a number: close after so many bytes; "status N"; "whole": of no parts; "shift": another part
    asked: list[str | None]  # the Range of each request

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        content = self.server.files.get(self.path[1:])
        if content is None or str(fault).startswith("status"):
            return self.send_error(404 if content is None else int(fault.split()[1]))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and fault != "whole" else None
        if start is not None and start >= len(content):
            return self.send_error(416)
        rest = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Length", str(len(rest)))
        if start is not None:
            shown = start + (fault == "shift")
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(rest[:fault] if isinstance(fault, int) else rest)
        return None

    def log_message(self, *args: Any) -> None:
        """Nothing on the console."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(download, "PIECE", PIECE)
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.asked = {"x.bin": CONTENT}, [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def starts(server: Server) -> list[int]:
    return [int(asked[6:-1]) if asked else 0 for asked in server.asked]


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and server.asked == [None]
    assert names(tmp_path) == ["x.bin"]
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert len(server.asked) == 1  # there already


def test_broken_connections_go_on_where_they_ended(server: Server, tmp_path: Path) -> None:
    server.faults = [12 * PIECE, 12 * PIECE, "status 503", 30 * PIECE]
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert starts(server) == [0, 12 * PIECE, 24 * PIECE, 24 * PIECE, 54 * PIECE]


def test_a_later_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.faults = [17 * PIECE, *[0] * download.ATTEMPTS]
    with pytest.raises(
        UserError, match=r"x.bin broke off: .*; 68 KiB of it lies in .*x.bin.part: run the same command again"
    ):
        download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin.part").read_bytes() == CONTENT[: 17 * PIECE] and not (tmp_path / "x.bin").exists()
    assert starts(server) == [0, *[17 * PIECE] * download.ATTEMPTS]
    server.asked.clear()
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and starts(server) == [17 * PIECE]


def test_attempts_are_counted_only_while_nothing_comes(server: Server, tmp_path: Path) -> None:
    server.faults = [3 * PIECE] * (3 * download.ATTEMPTS)
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert len(server.asked) == 3 * download.ATTEMPTS + 1


def test_a_part_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    """Killed between the last byte and the new name: the server has nothing after it."""
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert starts(server) == [len(CONTENT)] and names(tmp_path) == ["x.bin"]


def test_a_server_without_parts_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(b"other" * 1000)
    server.faults = ["whole"]
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(b"other" * 1000)  # of another file
    with pytest.raises(UserError, match=rf"what .*x.bin gave is not the file known here: .* and not {sha256(CONTENT)}"):
        download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert names(tmp_path) == []
    download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"x.bin, which was there already is not the file known here: .*; remove it"):
        download.download(server.address("x.bin"), tmp_path / "x.bin", sha256(b"newer"))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT  # not ours to remove


def test_what_no_attempt_mends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"y.bin cannot be had: the server answers 404 Not Found"):
        download.download(server.address("y.bin"), tmp_path / "y.bin", "")
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:10])
    server.faults = ["shift"]
    with pytest.raises(UserError, match=r"gives another part than was asked for: remove .*x.bin.part"):
        download.download(server.address("x.bin"), tmp_path / "x.bin", "")
    assert len(server.asked) == 2
    with pytest.raises(UserError, match=r"cannot write .*nowhere/x.bin.part: .*No such file"):
        download.download(server.address("x.bin"), tmp_path / "nowhere" / "x.bin", "")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"broke off: ConnectionError .*: run the same command again"):
        download.download(server.address("x.bin"), tmp_path / "x.bin", "")


def test_a_full_disk(server: Server, small_disk: Any) -> None:
    disk = small_disk("128k")
    with pytest.raises(UserError, match=r"x.bin.part takes 293 KiB more, but its disk has \d+ KiB left"):
        download.download(server.address("x.bin"), disk / "x.bin", sha256(CONTENT))


# Archives.


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as file:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.zip"])
def test_archives_are_extracted_whole(tmp_path: Path, name: str) -> None:
    members = {"01/train/ok/0.bmp": b"image", "readme.txt": b"text"}
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / name, members)
    leftover = tmp_path / ".BTAD.partial" / "old.txt"
    leftover.parent.mkdir()
    leftover.write_text("of a run that was killed")
    download.extract(archive, tmp_path / "BTAD")
    found = {p.relative_to(tmp_path / "BTAD").as_posix(): p.read_bytes() for p in (tmp_path / "BTAD").rglob("*.*")}
    assert found == members and names(tmp_path) == ["BTAD", name]


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a.tar", {"x.txt": b"", "../out.txt": b"bad"}),
        ("a.tar", {"x.txt": b"", "up": link("up", ".."), "up/out.txt": b"bad"}),
        ("a.tar", {"x.txt": b"", "hard": link("hard", "../out.txt", tarfile.LNKTYPE)}),
        ("a.tar", {"x.txt": b"", "dev": link("dev", "", tarfile.CHRTYPE)}),
        ("a.zip", {"x.txt": b"", "../out.txt": b"bad"}),
        ("a.zip", {"x.txt": b"", "/out.txt": b"bad"}),
        ("a.zip", {"x.txt": b"", "a/../../out.txt": b"bad"}),
    ],
)
def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str, members: dict[str, Any]) -> None:
    (tmp_path / "root").mkdir()
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / "root" / name, members)
    with pytest.raises(UserError, match=rf"cannot extract .*{name}: "):
        download.extract(archive, tmp_path / "root" / "BTAD")
    assert names(tmp_path / "root") == [name] and names(tmp_path) == ["root"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.zip"])
def test_a_damaged_archive_leaves_no_folder(tmp_path: Path, name: str) -> None:
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / name, {"1.bin": CONTENT, "2.bin": CONTENT})
    archive.write_bytes(archive.read_bytes()[:200_000])
    with pytest.raises(UserError, match=rf"cannot extract .*{name}: .*; remove it, and get it again"):
        download.extract(archive, tmp_path / "BTAD")
    assert names(tmp_path) == [name]


# The command.


@pytest.fixture
def btad(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BTAD is on our server; where it goes to."""
    content = zipped(tmp_path / "btad.zip", {"BTech_Dataset_transformed/01/train/ok/0.bmp": CONTENT}).read_bytes()
    server.files["btad.zip"] = content
    published = Published(server.address("btad.zip"), sha256(content), SETS["BTAD"].licence)
    monkeypatch.setitem(data_get.SETS, "BTAD", published)
    return tmp_path / "sets"


def test_the_command(server: Server, btad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [25 * PIECE]
    run(["data", "get", "btad", "--root", str(btad), "--accept-licence"])
    assert (btad / "BTAD/BTech_Dataset_transformed/01/train/ok/0.bmp").read_bytes() == CONTENT
    said = capsys.readouterr().out
    assert said.startswith("BTAD, by beanTech") and "CC BY-SA 4.0" in said
    assert f"--data.source BTAD --data.source.root {btad / 'BTAD'}" in said
    run(["data", "get", "BTAD", "--root", str(btad)])
    assert capsys.readouterr().out == f"{btad / 'BTAD'} is there already\n"
    assert starts(server) == [0, 25 * PIECE]


@pytest.mark.parametrize(("answer", "accepted"), [("y", True), ("Yes", True), ("", False), ("n", False)])
def test_the_licence_comes_first(
    server: Server,
    btad: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    accepted: bool,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    with pytest.raises(UserError, match=r"BTAD was not downloaded: its licence was not accepted \(--accept-licence\)"):
        run(["data", "get", "BTAD", "--root", str(btad)])  # no terminal: nobody was asked
    assert capsys.readouterr().out.count("CC BY-SA") == 1 and not btad.exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    if accepted:
        run(["data", "get", "BTAD", "--root", str(btad)])
    else:
        with pytest.raises(UserError, match="was not accepted"):
            run(["data", "get", "BTAD", "--root", str(btad)])
    assert (btad / "BTAD").is_dir() == accepted == bool(server.asked)


def test_two_at_once(server: Server, btad: Path) -> None:
    btad.mkdir()
    with FileLock(btad / ".BTAD.lock"), pytest.raises(UserError, match=r"another process is getting BTAD into"):
        run(["data", "get", "BTAD", "--root", str(btad), "--accept-licence"])
    assert server.asked == []


def test_other_names(tmp_path: Path) -> None:
    for name, page in ELSEWHERE.items():
        with pytest.raises(UserError, match=rf"{name} is not downloaded here: its owners offer it at {page}"):
            run(["data", "get", name, "--root", str(tmp_path)])
    with pytest.raises(UserError, match=r"no data set 'nuts': there are BTAD, VisA"):
        run(["data", "get", "nuts", "--root", str(tmp_path)])
    assert all(len(published.sha256) == 64 and "CC BY" in published.licence for published in SETS.values())
