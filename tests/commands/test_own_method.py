"""The commands that take a checkpoint find its method in the working directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad.checkpoint import read_checkpoint, write_checkpoint

METHOD = "from lit_ad.methods import STFPM\n\n\nclass Mine(STFPM):\n    pass\n"


@pytest.fixture(scope="module")
def home(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a user's own method, and a checkpoint of that method."""
    home = tmp_path_factory.mktemp("own")
    (home / "my_own_method.py").write_text(METHOD)
    saved = read_checkpoint(checkpoint)
    saved["lit_ad"]["method"] = "my_own_method.Mine"
    write_checkpoint(saved, home / "mine.ckpt")
    return home


def lit_ad(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as the console script does: its sys.path does not have the working directory."""
    code = "import sys; sys.path.remove(''); from lit_ad.commands.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("export", "mine.ckpt", "--format", "torch"),
        pytest.param(("recalibrate", "mine.ckpt", "--nominal", "IMAGES"), marks=pytest.mark.slow),
        pytest.param(("speed", "mine.ckpt", "--seconds", "0.05", "--batch", "[1]"), marks=pytest.mark.slow),
        ("predict", "mine.ckpt", "IMAGES"),
    ],
    ids=lambda words: words[0],
)
def test_commands_find_a_users_own_method(words: tuple[str, ...], home: Path, images: Path) -> None:
    given = [images / "test/good" if word == "IMAGES" else word for word in words]
    done = lit_ad(home, *given)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_module_elsewhere_is_not_imported(checkpoint: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.ckpt").write_bytes((home / "mine.ckpt").read_bytes())
    done = lit_ad(tmp_path / "elsewhere", "export", tmp_path / "mine.ckpt")
    assert "which is not known here: import my_own_method first" in done.stderr and done.returncode == 1
