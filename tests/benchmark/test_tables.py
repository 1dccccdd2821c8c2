"""The tables of a benchmark: numbers computed by hand, and empty cells where a run is missing."""

import csv
import json
import math
import shutil
from pathlib import Path
from statistics import stdev
from threading import Thread

import numpy as np
import pytest
from filelock import FileLock
from sklearn.metrics import roc_auc_score

from lit_ad.benchmark import tables
from lit_ad.benchmark.plan import Cell
from lit_ad.benchmark.runner import write_tables_locked
from lit_ad.benchmark.tables import write_tables
from lit_ad.evaluation.results import ImageResult, Results

SHIFT = {"good": 2.0, "poor": 0.3}
PUBLISHED = {"good": {"source": "its paper", "mean": {"image_auroc": 0.987}, "bolt": {"image_auroc": 0.99}}}


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """Cells of two methods, two tasks and two seeds. `poor` has no pixel metrics, and its second seed of `nut` died."""
    made = []
    for seed in (0, 1):
        for task in ("bolt", "nut"):
            for method, shift in SHIFT.items():
                cell = Cell(tmp_path / method / task / f"seed-{seed}", method, task, seed, [])
                cell.home.mkdir(parents=True)
                made.append(cell)
                if cell.name == "poor/nut/seed-1":
                    (cell.home / "died.txt").write_text("exit code 7: lit-ad: no disk\n")
                    continue
                generator = np.random.default_rng(len(made))
                images = [
                    ImageResult(f"{task}/{i}", task, "x", i % 2, float(generator.normal(shift * (i % 2), 1)))
                    for i in range(40)
                ]
                auroc = roc_auc_score([image.label for image in images], [image.score for image in images])
                row = {"image_auroc": float(auroc), "pixel_auroc": 0.5 if method == "good" else math.nan}
                row |= {"image_auroc_part": 0.25} if method == "good" else {}
                Results({"pooled": row}, images).save(cell.home / "metrics.json")
                cost = {
                    "seconds": 90.0 + 60 * seed,
                    "memory_mib": 512,
                    "gpu_memory_mib": None,
                    "attempts": 1,
                    "finished": True,
                }
                (cell.home / "cost.json").write_text(json.dumps({**cost, "device": "CPU"}))
    return made


def auroc(cells: list[Cell], name: str) -> float:
    (cell,) = [cell for cell in cells if cell.name == name]
    return Results.load(cell.home / "metrics.json").rows["pooled"]["image_auroc"]


def test_means_deviations_and_missing_cells(cells: list[Cell], tmp_path: Path) -> None:
    write_tables(cells, tmp_path, ["image_auroc", "pixel_auroc"], PUBLISHED)
    report = json.loads((tmp_path / "results.json").read_text())
    bolt = [auroc(cells, f"good/bolt/seed-{seed}") for seed in (0, 1)]
    both = [(auroc(cells, f"good/bolt/seed-{s}") + auroc(cells, f"good/nut/seed-{s}")) / 2 for s in (0, 1)]
    found = report["tasks"]["image_auroc"]["good"]["bolt"]
    assert (found["mean"], found["sd"], found["seeds"]) == pytest.approx((sum(bolt) / 2, stdev(bolt), 2))
    assert found["low"] <= found["mean"] <= found["high"]
    mean = report["mean"]["image_auroc"]
    assert (mean["good"]["mean"], mean["good"]["sd"]) == pytest.approx((sum(both) / 2, stdev(both)))
    assert (mean["poor"]["seeds"], mean["poor"]["sd"]) == (1, None)  # only its first seed has both tasks
    assert report["tasks"]["pixel_auroc"]["poor"] == {} and "poor" not in report["mean"]["pixel_auroc"]
    assert report["missing"]["poor/nut/seed-1"].startswith("died, exit code 7: lit-ad: no disk")
    assert "pixel_auroc of poor/bolt/seed-0" in report["missing"]
    assert report["mean"]["image_auroc_part"]["good"]["mean"] == 0.25  # of a method that has parts: others lack nothing
    assert not any("image_auroc_part" in name for name in report["missing"])
    assert report["comparison"]["image_auroc"]["ranks"] == {"good": 1.0, "poor": 2.0}
    assert "pixel_auroc" not in report["comparison"]


def test_the_four_files_agree(cells: list[Cell], tmp_path: Path) -> None:
    write_tables(cells, tmp_path, ["image_auroc", "pixel_auroc"], PUBLISHED)
    text = (tmp_path / "results.md").read_text()
    assert "| task     | good" in text and "| good, published   |" in text and "poor, published" not in text
    assert "Published, good: its paper." in text and "| 0.987 " in text and "| 0.990 " in text
    assert "2.0 min, 0.5 GiB" in text
    assert "- poor/nut/seed-1: died, exit code 7: lit-ad: no disk (see " in text
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == len(cells)
    (dead,) = [row for row in rows if row["state"].startswith("died")]
    assert (dead["image_auroc"], dead["seconds"]) == ("", "")
    assert float(rows[0]["image_auroc"]) == auroc(cells, "good/bolt/seed-0")
    latex = (tmp_path / "results.tex").read_text()
    assert latex.count("\\begin{tabular}") == 3 and "$\\pm$" in latex and "**" not in latex


def test_a_cell_that_ends_while_the_tables_are_written(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell of another process is in none of the four files, and the next time in all of them."""
    late, interval = next(cell for cell in cells if cell.name == "poor/nut/seed-1"), tables.interval

    def end_meanwhile(runs: list[Results]) -> tuple[float, float]:
        for name in ("metrics.json", "cost.json"):
            shutil.copy(cells[0].home / name, late.home)
        return interval(runs)

    monkeypatch.setattr(tables, "interval", end_meanwhile)
    for state, seconds, count in (("died, exit code 7: lit-ad: no disk (see", "", 1), ("finished", "90.0", 2)):
        write_tables(cells, tmp_path, ["image_auroc"], {})
        row = list(csv.DictReader((tmp_path / "results.csv").open()))[cells.index(late)]
        assert row["state"].startswith(state) and row["seconds"] == seconds
        assert (row["image_auroc"] == "") == (seconds == "")
        report = json.loads((tmp_path / "results.json").read_text())
        cell = report["cells"][cells.index(late)]
        assert cell["state"].startswith(state)
        assert ("seconds" in cell, "image_auroc" in cell["metrics"]) == (count == 2, count == 2)
        assert report["tasks"]["image_auroc"]["poor"]["nut"]["seeds"] == count
        assert (late.name in report["missing"], late.name in (tmp_path / "results.md").read_text()) == 2 * (count == 1,)


def test_of_two_processes_the_last_one_writes_what_both_finished(cells: list[Cell], tmp_path: Path) -> None:
    """The process that waits for the lock reads the cells after it has the lock."""
    late = cells[0].home / "cost.json"
    late.rename(tmp_path / "cost.json")
    with FileLock(tmp_path / "tables.lock"):
        writing = Thread(target=write_tables_locked, args=(cells, tmp_path, ["image_auroc"], {}))
        writing.start()
        writing.join(0.5)
        assert writing.is_alive() and not (tmp_path / "results.json").exists()
        (tmp_path / "cost.json").rename(late)
    writing.join()
    assert list(json.loads((tmp_path / "results.json").read_text())["missing"]) == ["poor/nut/seed-1"]


def test_tables_before_the_first_cell(tmp_path: Path) -> None:
    write_tables([Cell(tmp_path / "x", "a", "t", 0, [])], tmp_path, ["image_auroc"], {})
    assert "- a/t/seed-0: not started" in (tmp_path / "results.md").read_text()
