"""A trained run, for the commands that take a checkpoint; and a server, for those that download."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_ad.commands import download
from tests.commands.broken_server import CONTENT, PIECE, Handler, Server
from tests.serving import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained(images: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small STFPM, which was not tested."""
    home = tmp_path_factory.mktemp("home") / "run"
    arguments = ["fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"]
    arguments += ["--model.weights", resnet_file, "--data.source.root", images, "--model.view.image_size", 64]
    arguments += ["--data.batch_size", 4, "--trainer.max_epochs", 1, "--trainer.default_root_dir", home]
    arguments += ["--trainer.accelerator", "cpu", "--test_after_fit", "false"]
    subprocess.run([sys.executable, "-m", "lit_ad", *map(str, arguments)], check=True, capture_output=True)
    return home


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints/best.ckpt"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(download, "PIECE", PIECE)
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.asked = {"x.bin": CONTENT}, [], []
    with serving(server):
        yield server
