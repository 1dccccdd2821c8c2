"""The table of metrics by shift: its order, and the test that each line is compared with."""

from dataclasses import replace
from pathlib import Path

import pytest

from lit_ad.evaluation.report.page import PAGE, write_page
from lit_ad.evaluation.report.runs import Run, read_run
from lit_ad.evaluation.report.shifts import list_shifts
from tests.evaluation.report.conftest import MakeRun


@pytest.fixture
def runs(tmp_path: Path, make_run: MakeRun) -> list[Run]:
    """A run, two tests of its checkpoint under other light, and another run."""
    runs = []
    for seed, (name, strength, auroc) in enumerate(
        [("run", None, 0.9), ("run/test", 0.5, 0.6), ("run/test-2", 0.25, 0.8), ("other", 0.5, 0.7)]
    ):
        home, results, _ = make_run(tmp_path / name, seed, f"/data/{seed}", ("nut",))
        results.rows = {"pooled": {**results.rows["pooled"], "image_auroc": auroc, "false_alarm_rate": seed / 10}}
        results.shift = None if strength is None else {"kind": "light", "strength": strength, "seed": 0}
        results.checkpoint = str(tmp_path / "run/checkpoints/best.ckpt") if "test" in name else "checkpoints/best.ckpt"
        results.save(home / "metrics.json")
        runs.append(read_run(home, name))
    return runs


def test_shifted_tests_are_compared_with_the_unshifted_test_of_their_checkpoint(runs: list[Run]) -> None:
    lines = list_shifts(runs)
    assert [(line.run, line.shift) for line in lines] == [
        ("run", "none"),
        ("run/test-2", "light 0.25, seed 0"),
        ("run/test", "light 0.5, seed 0"),
        ("other", "light 0.5, seed 0"),
    ]
    assert [line.cells[0] for line in lines] == [
        ("0.9000", ""),
        ("0.8000", "-0.1000"),
        ("0.6000", "-0.3000"),
        ("0.7000", ""),  # nothing to compare with
    ]
    assert [line.cells[-2][1] for line in lines] == ["", "+20 %", "+10 %", ""]


def test_without_a_shift_there_is_no_table(runs: list[Run]) -> None:
    assert list_shifts([replace(run, results=replace(run.results, shift=None)) for run in runs]) == []


def test_the_page_has_the_table_and_matches_the_images(runs: list[Run], tmp_path: Path) -> None:
    write_page([run.home for run in runs[:2]], tmp_path / PAGE)
    text = (tmp_path / PAGE).read_text()
    assert "Metrics by shift" in text and "under other light (light 0.5, seed 0)" in text and "-0.3000" in text
    write_page([runs[0].home], tmp_path / PAGE)
    assert "Metrics by shift" not in (tmp_path / PAGE).read_text()
