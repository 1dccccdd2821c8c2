"""Downloads from a faulty server, and archives that are damaged or lead out of their folder."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lit_ad.commands.download import ATTEMPTS, download, extract
from lit_ad.errors import UserError
from tests.commands.broken_server import CONTENT, PIECE, Server, sha256, starts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_complete_download(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert capsys.readouterr().err == ""  # a log gets no bar
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and server.asked == [None]
    assert names(tmp_path) == ["x.bin"]
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert len(server.asked) == 1  # the file exists already


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.faults = [12 * PIECE, 12 * PIECE, "status 503", 30 * PIECE]
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert starts(server) == [0, 12 * PIECE, 24 * PIECE, 24 * PIECE, 54 * PIECE]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_or_broken_is_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [f"status {status}"]
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and starts(server) == [0, 0]


def test_a_later_run_resumes(server: Server, tmp_path: Path) -> None:
    server.faults = [17 * PIECE, *[0] * ATTEMPTS]
    with pytest.raises(
        UserError, match=r"x.bin broke off: .*; .*x.bin.part has the first 68 KiB: run the same command again"
    ):
        download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin.part").read_bytes() == CONTENT[: 17 * PIECE] and not (tmp_path / "x.bin").exists()
    assert starts(server) == [0, *[17 * PIECE] * ATTEMPTS]
    server.asked.clear()
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and starts(server) == [17 * PIECE]


def test_only_attempts_without_a_new_byte_are_counted(server: Server, tmp_path: Path) -> None:
    server.faults = [3 * PIECE] * (3 * ATTEMPTS)
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert len(server.asked) == 3 * ATTEMPTS + 1


def test_a_part_that_is_complete_already(server: Server, tmp_path: Path) -> None:
    """The process was killed after the last byte, before the file got its name. The server answers 416."""
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert starts(server) == [len(CONTENT)] and names(tmp_path) == ["x.bin"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(b"other" * 1000)
    server.faults = ["whole"]
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(b"other" * 1000)  # of another file
    with pytest.raises(UserError, match=rf"the file from .*x.bin is not the expected one: .*, not {sha256(CONTENT)}"):
        download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert names(tmp_path) == []
    download(server.address("x.bin"), tmp_path / "x.bin", sha256(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"the file .*x.bin is not the expected one: .*; remove it"):
        download(server.address("x.bin"), tmp_path / "x.bin", sha256(b"newer"))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT  # the user's file stays


def test_faults_that_no_attempt_mends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cannot download .*y.bin: the server answers 404 Not Found"):
        download(server.address("y.bin"), tmp_path / "y.bin", "")
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:10])
    server.faults = ["shift"]
    with pytest.raises(UserError, match=r"sends another part than requested: remove .*x.bin.part"):
        download(server.address("x.bin"), tmp_path / "x.bin", "")
    assert len(server.asked) == 2
    with pytest.raises(UserError, match=r"cannot write .*nowhere/x.bin.part: .*No such file"):
        download(server.address("x.bin"), tmp_path / "nowhere" / "x.bin", "")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"broke off: ConnectionError .*: run the same command again"):
        download(server.address("x.bin"), tmp_path / "x.bin", "")


def test_a_full_disk(server: Server, small_disk: Any) -> None:
    disk = small_disk("128k")
    with pytest.raises(UserError, match=r"x.bin.part needs 293 KiB more, but its disk has \d+ KiB left"):
        download(server.address("x.bin"), disk / "x.bin", sha256(CONTENT))


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
def test_archives_are_extracted(tmp_path: Path, name: str) -> None:
    members = {"01/train/ok/0.bmp": b"image", "readme.txt": b"text"}
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / name, members)
    leftover = tmp_path / ".BTAD.partial" / "old.txt"
    leftover.parent.mkdir()
    leftover.write_text("of a run that was killed")
    extract(archive, tmp_path / "BTAD")
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
def test_a_member_outside_of_the_folder_is_refused(tmp_path: Path, name: str, members: dict[str, Any]) -> None:
    (tmp_path / "root").mkdir()
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / "root" / name, members)
    with pytest.raises(UserError, match=rf"cannot extract .*{name}: "):
        extract(archive, tmp_path / "root" / "BTAD")
    assert names(tmp_path / "root") == [name] and names(tmp_path) == ["root"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.zip"])
def test_a_damaged_archive_leaves_no_folder(tmp_path: Path, name: str) -> None:
    make: Any = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / name, {"1.bin": CONTENT, "2.bin": CONTENT})
    archive.write_bytes(archive.read_bytes()[:200_000])
    with pytest.raises(UserError, match=rf"cannot extract .*{name}: .*; remove it, and download it again"):
        extract(archive, tmp_path / "BTAD")
    assert names(tmp_path) == [name]
