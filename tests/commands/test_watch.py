"""`lit-ad watch` judges files that come into a folder, ends at Ctrl-C, and a restart judges the rest."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch

pytest.importorskip("watchdog")
pytest.importorskip("uvicorn")
from lit_ad.commands.watch import Page, choose_name, open_feed, watch
from lit_ad.deploy.export import export
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.line.feed import FeedSettings
from lit_ad.methods.stfpm import STFPM
from tests.serving import find_free_port


@pytest.fixture(scope="module")
def exported(small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file, which needs no torch."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    method = STFPM(**{**small_models["STFPM"]["init_args"], "view": View(64)}).eval().requires_grad_(False)
    method.decision = Decision({"": np.array([0.1, 0.2])}, {"": np.array([0.1, 0.2])}, {"": np.array([0.01])})
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(method, file, "onnx")
    return file


@contextmanager
def watching(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """Run `lit-ad watch` in a process, and kill it at the end."""
    command = [sys.executable, "-m", "lit_ad", "watch", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out, errors


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_that_come_into_a_folder_are_judged(exported: Path, images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    shutil.copy(images / "test/good/000.png", folder)
    options = ["--detector", exported, "--journal", tmp_path / "journal", "--to.json_lines", out, "--feed.settle", 0.2]
    with watching(folder, *options, "--page.port", 0) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"The page: (http://127.0.0.1:\d+)", line):
                break
        assert found is not None
        wait(lambda: out.exists() and len(out.read_text().splitlines()) == 1)
        shutil.copy(images / "test/square/003.png", folder)
        wait(lambda: len(out.read_text().splitlines()) == 2)
        with urlopen(f"{found[1]}/live") as answer:
            live = json.load(answer)
        assert live["line"]["judged"] == 2 and live["image"]["name"] == "003.png"
        _, errors = end(process)
    assert "2 images judged" in errors
    shutil.copy(images / "test/good/001.png", folder)
    with watching(folder, *options) as process:  # judges the file that came in between
        wait(lambda: len(out.read_text().splitlines()) == 3)
        _, errors = end(process)
    assert "in is watched; Ctrl-C ends it" in errors and "1 image judged" in errors
    assert "2 images of the folder are left out: the journal has them already, from the source in\n" in errors
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["name"] for each in told] == ["000.png", "003.png", "001.png"]
    assert {each["source"] for each in told} == {"in"}
    written = [row for _, row in JournalFile(tmp_path / "journal", alone=False).rows()]
    assert [(row.name, row.score) for row in written] == [(each["name"], each["score"]) for each in told]
    moved = tmp_path / "other/in"  # files of the same names would be taken for judged ones
    shutil.copytree(folder, moved)
    with pytest.raises(UserError, match=rf"images of another folder under the name in, {folder}: name this one by"):
        open_feed(str(moved), FeedSettings(), tmp_path / "journal", "in")
    open_feed(str(moved), FeedSettings(name="in"), tmp_path / "journal", "in").close()


@pytest.mark.parametrize(("ahead", "left_out"), [(0, 1), (1e6, 0)])
def test_a_clock_that_was_ahead_hides_no_file(ahead: float, left_out: int, tmp_path: Path) -> None:
    """The file may be another one of the same name: a name counts as judged only if the journal's time can be right."""
    folder, journal = tmp_path / "in", tmp_path / "journal"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    file = JournalFile(journal, alone=True)
    file.insert([Row(time.time() + ahead, "in", "", "a.png", 1.0, 0.5, "nominal", 0.1, None, False, None)])
    feed: Any = open_feed(str(folder), FeedSettings(), journal, "in")
    assert feed.left_out == left_out
    feed.close()


def test_paths_on_standard_input_are_judged(exported: Path, images: Path) -> None:
    with watching("-", "--detector", exported, "--to.json_lines", "-") as process:
        paths = "".join(f"{images / 'test' / kind / '001.png'}\n" for kind in ("good", "square"))
        out, errors = process.communicate(paths, timeout=120)
    assert process.returncode == 0, errors
    assert [json.loads(line)["source"] for line in out.splitlines()] == ["standard input"] * 2
    assert "2 images judged" in errors


SYSTEM_PYTHON, RTSP_SERVER = "/usr/bin/python3", Path(__file__).parents[1] / "rtsp_server.py"
RTSP_PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"


@contextmanager
def rtsp_camera(port: int) -> Iterator[None]:
    """Serve a moving video by RTSP during the block."""
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"needs Debian's {SYSTEM_PYTHON}")
    command = [SYSTEM_PYTHON, str(RTSP_SERVER), str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        if server.stdout.readline() != "serves\n":
            pytest.skip(f"needs apt-get install {RTSP_PACKAGES}: {server.stderr.read()}")
        try:
            yield
        finally:
            server.kill()


@pytest.mark.slow  # waits for a server, twice
def test_an_rtsp_camera_is_judged_and_found_again_after_a_cut(exported: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "out.jsonl", find_free_port()
    address = f"rtsp://ada:geheim@127.0.0.1:{port}/line"

    def read_scores() -> list[float]:
        return [json.loads(line)["score"] for line in out.read_text().splitlines()] if out.exists() else []

    with ExitStack() as stack:
        with rtsp_camera(port):
            options = ["--detector", exported, "--to.json_lines", out, "--feed.every", 0.1]
            process = stack.enter_context(watching(address, *options))
            wait(lambda: len(read_scores()) >= 8)
        assert process.stderr is not None
        told = next(line for line in process.stderr if "given no pictures" in line)
        assert told.startswith(f"rtsp://127.0.0.1:{port}/line has given no pictures since 20")
        judged = read_scores()
        time.sleep(2.5)  # it tries again twice
        with rtsp_camera(port):
            wait(lambda: len(read_scores()) >= len(judged) + 8)
            _, errors = end(process)
    assert "given no pictures" not in errors and "the trouble is over" in errors and "geheim" not in errors + told
    assert len(set(judged)) > 2 and len(set(read_scores()[len(judged) :])) > 2  # the ball moves
    assert f"{len(read_scores())} images judged" in errors


def test_sources_and_settings_that_do_not_fit_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no source: give a folder, a video file, a camera"):
        watch(str(tmp_path / "nowhere"), exported)
    with pytest.raises(UserError, match="--watch needs a journal"):
        watch(str(tmp_path), exported, watch=JournalSettings(delta=0.1))
    with pytest.raises(UserError, match=r"--page.host needs a page"):
        watch(str(tmp_path), exported, page=Page(host="::1"))
    with pytest.raises(UserError, match=r"--feed.every does nothing for folders"):
        watch(str(tmp_path), exported, feed=FeedSettings(every=1))
    with pytest.raises(UserError, match=r"--feed.new_only does nothing for paths"):
        watch("-", exported, feed=FeedSettings(new_only=True))
    with pytest.raises(
        UserError, match=r"--feed.category bolt is not one of the detector's: it has none: leave it out"
    ):
        watch(str(tmp_path), exported, feed=FeedSettings(category="bolt"))
    (journal := tmp_path / "line" / "pictures").mkdir(parents=True)
    for folder in (tmp_path, journal):
        with pytest.raises(UserError, match="they would be judged without end: give another --journal"):
            watch(str(folder), exported, journal=journal.parent)
    assert not (journal.parent / "journal.sqlite").exists()


def test_default_names_of_sources(tmp_path: Path) -> None:
    assert [choose_name(source) for source in ("-", "0", "rtsp://a:b@h/x", f"{tmp_path}/in")] == [
        *("standard input", "camera 0", "rtsp://h/x", "in")
    ]
    feed = open_feed(str(tmp_path), FeedSettings(), None, "line")
    feed.close()
