"""The plan of a benchmark: its tasks, its cells, and the selected ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from lit_ad.benchmark.plan import (
    Budget,
    Cell,
    KeptCheckpoints,
    MethodSpec,
    Task,
    add_shots,
    list_tasks,
    make_cell,
    select_cells,
)
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
    assert found["uni/dog"].source["init_args"] == {**given, "normal": ["dog"], "anomalous": None}
    assert found["multi/dog"].source["init_args"] == {**given, "normal": None, "anomalous": ["dog"]}


@pytest.mark.parametrize(
    ("kept", "there", "left"),
    [
        ("all", {"best", "last"}, {"best", "last"}),
        ("best", {"best", "last"}, {"best"}),
        ("best", {"last"}, {"last"}),  # a run without validation
        ("none", {"best", "last"}, set()),
    ],
)
def test_a_finished_cell_keeps_some_checkpoints(
    kept: KeptCheckpoints, there: set[str], left: set[str], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in there:
        (folder / f"{name}.ckpt").touch()
    Cell(tmp_path, "m", "t", 0, []).remove_checkpoints(kept)
    assert {path.stem for path in folder.iterdir()} == left


def test_the_config_of_a_cell_has_its_source_seed_and_budget(config: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"class_path": "MVTec", "init_args": {"root": "r"}}
    budget = Budget(minutes=0.5, epochs=3)
    cell = make_cell(tmp_path, "m", MethodSpec(str(config)), "t", Task(source), 4, budget)
    made = yaml.safe_load((cell.home / "cell.yaml").read_text())
    assert (made["data"], made["seed_everything"]) == ({"source": source, "batch_size": 2}, 4)
    asked = {"max_epochs": 3, "max_steps": -1, "max_time": {"seconds": 30}, "enable_progress_bar": False}
    assert made["trainer"] == asked
    config.write_text("# a comment\n" + config.read_text())
    make_cell(tmp_path, "m", MethodSpec(str(config)), "t", Task(source), 4, budget)
    asked_before = (cell.home / "asked.json").read_text()
    (cell.home / "asked.json").write_text(asked_before[:40])
    with pytest.raises(UserError, match=r"m/t/seed-4/asked.json is damaged \(.*\): remove .*m/t/seed-4, so that"):
        make_cell(tmp_path, "m", MethodSpec(str(config)), "t", Task(source), 4, budget)
    (cell.home / "asked.json").write_text(asked_before)
    corrected = make_cell(tmp_path, "m", MethodSpec(str(config), ["--model.lr=1"]), "t", Task(source), 4, budget)
    assert json.loads((corrected.home / "asked.json").read_text())["arguments"] == ["--model.lr=1"]  # nothing ran yet
    other = MethodSpec(str(config), ["--model.lr=2"])
    with (
        FileLock(cell.home / "cell.lock"),
        pytest.raises(UserError, match=r"m/t/seed-4 holds a run with other settings"),
    ):
        make_cell(tmp_path, "m", other, "t", Task(source), 4, budget)
    (cell.home / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"m/t/seed-4 holds a run with other settings"):
        make_cell(tmp_path, "m", other, "t", Task(source), 4, budget)


def test_few_shots_are_drawn_by_the_seed_and_decide_by_folds(images: Path, config: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"class_path": "MVTec", "init_args": {"root": str(images)}}
    tasks = add_shots({"t": Task(source)}, [1, 2, 16])
    assert list(tasks) == ["t/1-shot", "t/2-shot", "t/16-shot"] and add_shots(tasks, []) is tasks
    made = {}
    for name, task in tasks.items():
        cell = make_cell(tmp_path, "m", MethodSpec(str(config)), name, task, 4, Budget())
        made[task.shots] = yaml.safe_load((cell.home / "cell.yaml").read_text())
    assert [made[shots]["data"]["split"]["shots"] for shots in (1, 2, 16)] == [1, 2, 16]
    assert all(settings["data"]["split"]["seed"] == 4 for settings in made.values())
    assert [made[shots].get("decision") for shots in (1, 2, 16)] == [None, {"folds": 2}, {"folds": 4}]
    assert made[1]["data"]["split"]["val_fraction"] == 0 and "val_fraction" not in made[2]["data"]["split"]
    with pytest.raises(UserError, match=r"shots is 0"):
        add_shots(tasks, [0])


def test_the_validation_images_of_a_data_set_decide_in_place_of_folds(
    images: Path, config: Path, tmp_path: Path
) -> None:
    for folder in ("train/good", "validation/good", "test/good"):
        shutil.copytree(images / "train/good", tmp_path / "loco" / folder)
    source = {"class_path": "MVTecLOCO", "init_args": {"root": str(tmp_path / "loco")}}
    task = add_shots({"t": Task(source)}, [2])["t/2-shot"]
    cell = make_cell(tmp_path, "m", MethodSpec(str(config)), "t/2-shot", task, 0, Budget(minutes=1))
    made = yaml.safe_load((cell.home / "cell.yaml").read_text())
    assert "decision" not in made and made["data"]["split"] == {"shots": 2, "seed": 0, "val_fraction": 0}


@pytest.mark.parametrize("limit", ["minutes", "processor_minutes"])
def test_folds_refuse_a_time_limit(limit: str, config: Path, tmp_path: Path) -> None:
    few, budget = Task({"class_path": "MVTec"}, 4, 4), Budget(**{limit: 1})
    with pytest.raises(
        UserError,
        match=rf"With budget.{limit}, each training ends at a different step. Folds \(decision.folds, used for sh",
    ):
        make_cell(tmp_path, "m", MethodSpec(str(config)), "t", few, 0, budget)
    with pytest.raises(UserError, match=r"Folds \(decision.folds\) need trainings of equal length: give budget.epochs"):
        make_cell(tmp_path, "m", MethodSpec(str(config), ["--decision.folds=3"]), "t", Task(few.source), 0, budget)


def test_only_selects_methods_and_tasks() -> None:
    cells = [(method, task) for method in ("a", "b") for task in ("uni/cat", "multi/cat", "multi/dog")]
    assert select_cells(cells, []) == set(cells)
    assert select_cells(cells, ["a"]) == {pair for pair in cells if pair[0] == "a"}
    assert select_cells(cells, ["b", "cat"]) == {("b", "uni/cat"), ("b", "multi/cat")}
    assert select_cells(cells, ["multi"]) == {pair for pair in cells if pair[1].startswith("multi")}
    with pytest.raises(
        UserError, match=r"--only names no method or task cow: the methods are a, b, and the tasks are multi/cat"
    ):
        select_cells(cells, ["cow"])
