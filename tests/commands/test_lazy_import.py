"""A command is imported when it is typed, and imports no more than it needs."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad.commands.lazy_import import import_function
from lit_ad.commands.main import COMMANDS

NETWORKS = ("torch", "lightning", "timm", "torchmetrics", "torchvision", "albumentations")
HEAVY = {  # command -> packages that it does not import, not even for its help
    **dict.fromkeys(("report", "serve", "data get", "cache"), NETWORKS),
    **dict.fromkeys(("data check", "speed", "benchmark", "submission"), NETWORKS[1:]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    assert callable(import_function(COMMANDS[name].function))


def test_garbage_is_collected_after_an_import_and_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gc.isenabled()
    import_function("files.atomic_write")
    assert gc.isenabled()
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.setattr("lit_ad.__path__", [str(tmp_path)])
    with pytest.raises(ZeroDivisionError):
        import_function("broken_module.main")
    assert gc.isenabled()


@pytest.mark.parametrize("words", ["", *HEAVY])
def test_commands_without_networks_do_not_wait_for_them(words: str) -> None:
    heavy = HEAVY.get(words, NETWORKS)
    code = (
        "import sys; from lit_ad.commands.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *words.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: lit-ad") and done.stdout.splitlines()[-1] == "[]", done.stdout
