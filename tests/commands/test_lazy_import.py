"""Imports of a command: no garbage collection meanwhile, and none of theirs after."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_ad.commands.lazy_import import imported


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The collector's passes, while modules of `tmp_path` may be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.unfreeze()
    for name in ("many_objects", "broken_module"):
        sys.modules.pop(name, None)


def test_nothing_is_collected_while_a_module_is_imported(tmp_path: Path, passes: list[str]) -> None:
    (tmp_path / "many_objects.py").write_text("everything = [[i] for i in range(100_000)]\n")
    frozen = gc.get_freeze_count()
    module = imported("many_objects")
    assert len(module.everything) == 100_000
    assert not passes
    assert gc.get_freeze_count() >= frozen + 100_000  # later passes do not look at them
    assert gc.isenabled()

    frozen = gc.get_freeze_count()
    kept = [[i] for i in range(1000)]
    assert imported("many_objects") is module
    assert len(kept) == 1000 and gc.get_freeze_count() <= frozen  # what a program makes itself is looked at


def test_the_collector_is_as_it_was_where_an_import_fails_or_it_was_off(tmp_path: Path, passes: list[str]) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "many_objects.py").write_text("")
    with pytest.raises(ZeroDivisionError):
        imported("broken_module")
    assert gc.isenabled()
    gc.disable()
    try:
        imported("many_objects")
        assert not gc.isenabled()
    finally:
        gc.enable()


NETWORKS = ("torch", "lightning", "timm", "torchmetrics", "torchvision", "albumentations")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("commands.main", NETWORKS),
        ("commands.report", NETWORKS),
        ("commands.serve", NETWORKS),
        ("commands.data_get", NETWORKS),
        ("commands.data_check", NETWORKS[1:]),
        ("commands.speed", NETWORKS[1:]),
        ("benchmark.runner", NETWORKS[1:]),
    ],
)
def test_commands_without_networks_do_not_wait_for_them(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, lit_ad.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
