"""What a benchmark does: its tasks, its cells, and which of them are selected."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_ad.benchmark.plan import Budget, MethodSpec, list_tasks, make_cell, select_cells
from lit_ad.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "method.yaml").write_text("trainer: {max_steps: 9}\ndata: {source: {class_path: X}, batch_size: 2}\n")
    return tmp_path / "method.yaml"


def test_tasks_of_one_source_and_of_several(images: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets/test" / name).mkdir(parents=True)
    (tmp_path / "pets/train").mkdir()
    pets = tmp_path / "pets"
    uni = {"class_path": "OneClass", "init_args": {"root": str(pets), "normal": ["cat"]}}
    multi = {"class_path": "OneClass", "init_args": {"root": str(pets), "anomalous": ["cat"]}}
    assert list(list_tasks({"pets": uni})) == ["cat", "dog"]
    mvtec = {"class_path": "MVTec", "init_args": {"root": str(images)}}
    found = list_tasks({"uni": uni, "multi": multi, "one": mvtec})
    assert list(found) == ["uni/cat", "uni/dog", "multi/cat", "multi/dog", "one"]
    given = {"root": str(pets), "download": None}
    assert found["uni/dog"]["init_args"] == {**given, "normal": ["dog"], "anomalous": None}
    assert found["multi/dog"]["init_args"] == {**given, "normal": None, "anomalous": ["dog"]}


def test_a_cell_has_its_source_seed_and_budget_and_no_others(config: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"class_path": "MVTec", "init_args": {"root": "r"}}
    budget = Budget(minutes=0.5, epochs=3)
    cell = make_cell(tmp_path, "m", MethodSpec(str(config)), "t", source, 4, budget)
    made = yaml.safe_load((cell.home / "cell.yaml").read_text())
    assert (made["data"], made["seed_everything"]) == ({"source": source, "batch_size": 2}, 4)
    asked = {"max_epochs": 3, "max_steps": -1, "max_time": {"seconds": 30}, "enable_progress_bar": False}
    assert made["trainer"] == asked
    config.write_text("# a comment\n" + config.read_text())
    make_cell(tmp_path, "m", MethodSpec(str(config)), "t", source, 4, budget)
    with pytest.raises(UserError, match=r"m/t/seed-4 holds a run of other settings"):
        make_cell(tmp_path, "m", MethodSpec(str(config), ["--model.lr=1"]), "t", source, 4, budget)


def test_only_some() -> None:
    cells = [(method, task) for method in ("a", "b") for task in ("uni/cat", "multi/cat", "multi/dog")]
    assert select_cells(cells, []) == set(cells)
    assert select_cells(cells, ["a"]) == {pair for pair in cells if pair[0] == "a"}
    assert select_cells(cells, ["b", "cat"]) == {("b", "uni/cat"), ("b", "multi/cat")}
    assert select_cells(cells, ["multi"]) == {pair for pair in cells if pair[1].startswith("multi")}
    with pytest.raises(UserError, match=r"no cow: there are a, b; multi/cat"):
        select_cells(cells, ["cow"])
