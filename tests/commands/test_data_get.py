"""`lit-ad data get` shows the licence first, and downloads a data set once. test_download.py tests the download."""

import io
import re
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from lit_ad.commands import data_get
from lit_ad.commands.data_get import ELSEWHERE, SETS, Published
from lit_ad.commands.main import run
from lit_ad.errors import UserError
from tests.commands.broken_server import CONTENT, PIECE, Server, sha256, starts


@pytest.fixture
def btad(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve BTAD from our server, and return the folder to download it to."""
    with zipfile.ZipFile(tmp_path / "btad.zip", "w") as archive:
        archive.writestr("BTech_Dataset_transformed/01/train/ok/0.bmp", CONTENT)
    content = (tmp_path / "btad.zip").read_bytes()
    server.files["btad.zip"] = content
    published = Published(server.address("btad.zip"), sha256(content), SETS["BTAD"].licence)
    monkeypatch.setitem(data_get.SETS, "BTAD", published)
    return tmp_path / "sets"


def test_a_data_set_is_downloaded_and_extracted_once(
    server: Server, btad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [25 * PIECE]
    run(["data", "get", "btad", "--root", str(btad), "--accept-licence"])
    assert (btad / "BTAD/BTech_Dataset_transformed/01/train/ok/0.bmp").read_bytes() == CONTENT
    said = capsys.readouterr().out
    assert said.startswith("BTAD, by beanTech") and "CC BY-SA 4.0" in said
    assert re.search(rf"^extracting {btad}/\w", said, re.MULTILINE)
    assert f"--data.source BTAD --data.source.root {btad / 'BTAD'}" in said
    run(["data", "get", "BTAD", "--root", str(btad)])
    assert capsys.readouterr().out == f"{btad / 'BTAD'} exists already\n"
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


def test_two_downloads_at_once_are_refused(server: Server, btad: Path) -> None:
    btad.mkdir()
    with FileLock(btad / ".BTAD.lock"), pytest.raises(UserError, match=r"another process is downloading BTAD to"):
        run(["data", "get", "BTAD", "--root", str(btad), "--accept-licence"])
    assert server.asked == []


def test_other_data_sets_are_refused_with_an_address(tmp_path: Path) -> None:
    for name, page in ELSEWHERE.items():
        with pytest.raises(UserError, match=rf"lit-ad cannot download {name}: get it from its owners at {page}"):
            run(["data", "get", name, "--root", str(tmp_path)])
    with pytest.raises(UserError, match=r"there is no data set 'nuts': give one of BTAD, VisA"):
        run(["data", "get", "nuts", "--root", str(tmp_path)])
    assert all(len(published.sha256) == 64 and "CC BY" in published.licence for published in SETS.values())
