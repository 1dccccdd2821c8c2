"""`decision.folds`: real trainings of small images, told, stopped and gone on with, by one process and by two."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.lightning_cli.folds import merge, read_folds, write_fold
from lit_ad.run import fit

ROOT = Path(__file__).parents[2]
Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(images: Path, small_models: dict[str, Keys]) -> Callable[..., Keys]:
    """keys(method, more keys): of a short training on 12 nominal images."""

    def make(method: str = "STFPM", **more: Any) -> Keys:
        return {
            "model": small_models[method],
            "data": {"source": {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(images)}}},
            "data.batch_size": 4,
            "trainer.accelerator": "cpu",
            "trainer.max_epochs": 2,
            "trainer.precision": "64-true",  # so that only an error, and no rounding, makes a difference
            "trainer.enable_progress_bar": False,
            "data.loading.num_workers": 0,
            **more,
        }

    return make


@pytest.fixture(scope="module")
def config(keys: Callable[..., Keys], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """config(method, more keys): the same as a file."""

    def make(method: str = "STFPM", **more: Any) -> Path:
        file = tmp_path_factory.mktemp("config") / "config.yaml"
        nested: Keys = {}
        for key, value in keys(method, **more).items():
            *parents, leaf = key.split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value
        file.write_text(yaml.safe_dump(nested))
        return file

    return make


def decision_of(home: Path) -> Any:
    return Detector.load(home).card.decision


@pytest.fixture(scope="module")
def home(config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three folds, and what was printed beside it."""
    home = tmp_path_factory.mktemp("folds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home.parent / "cache"))
        arguments = [*("--config", config(), "--trainer.default_root_dir", home, "--decision.folds", 3)]
        done = subprocess.run(command(*arguments), capture_output=True, text=True, check=True, env=environment())
    (home.parent / "printed").write_text(done.stdout + done.stderr)
    return home


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lit_ad", "fit", *map(str, arguments)]


def test_every_nominal_image_trains_and_decides(home: Path) -> None:
    decision = decision_of(home)
    assert decision.folds == {"stripes": [4, 4, 4]} and not any(decision.also_chosen.values())
    assert [len(getattr(decision, name)["stripes"]) for name in ("scores", "maxima", "medians")] == [12] * 3
    told = json.loads((home / "metrics.json").read_text())["decision"]["thresholds"][0]
    assert told["folds"] == 3 and told["kept_rate"] == pytest.approx(1 / 13) and not told["exact"]
    assert "All 12 nominal images trained this detector" in (home / "report.html").read_text()
    assert sorted(path.name for path in (home / "folds").iterdir()) == ["1.json", "2.json", "3.json"]


def test_the_scores_are_those_of_detectors_without_the_fold(home: Path, config: Callable[..., Path]) -> None:
    """The training of a fold by itself: six steps, as many as the last one's 2 epochs of 3 batches."""
    alone = home.parent / "alone"
    arguments = ["--config", config(), "--trainer.default_root_dir", alone, "--decision.folds", 3]
    arguments += ["--data.fold.number", 1, "--trainer.max_steps", 6, "--trainer.max_epochs", -1]
    subprocess.run(command(*arguments), capture_output=True, check=True, env=environment())
    record = json.loads((home / "folds/2.json").read_text())
    assert record["settings"]["steps"] == "6"
    assert decision_of(alone).scores["stripes"] == pytest.approx(record["scores"]["stripes"])
    assert set(record["scores"]["stripes"]) < set(decision_of(home).scores["stripes"])


def test_p_values_and_threshold_are_of_all_left_out_scores(home: Path) -> None:
    left_out = np.concatenate(
        [json.loads((home / f"folds/{fold}.json").read_text())["scores"]["stripes"] for fold in (1, 2, 3)]
    )
    detector = Detector.load(home)
    decision = detector.card.decision
    assert decision is not None
    for score in [*left_out, left_out.max() + 1, left_out.min() - 1]:
        assert decision.p_value(score) == pytest.approx((1 + np.count_nonzero(left_out >= score)) / 13)
    assert decision.threshold() == left_out.max() and decision.with_rate(2 / 13).threshold() == np.sort(left_out)[-2]


def test_what_is_told(home: Path) -> None:
    printed = (home.parent / "printed").read_text()
    assert "decision.folds 3: 4 trainings, about 4 times as long as one. 3 of them leave out a part" in printed
    for fold in (1, 2, 3):
        assert f"Fold {fold} of 3: 8 images trained, 4 left out and scored; about 0:0" in printed
    assert printed.count("to train on,") == 2  # of the first fold, and of the last training
    assert printed.count("12 nominal images allow a false-alarm rate of 0.0769 and no lower") == 1


def test_all_trainings_share_one_cache_of_features(home: Path) -> None:
    stores = [path for path in (home.parent / "cache/lit_ad/features").iterdir() if path.is_dir()]
    assert len(stores) == 1


def test_a_run_that_is_stopped_goes_on_with_the_fold(home: Path, config: Callable[..., Path], tmp_path: Path) -> None:
    stopped = tmp_path / "run"
    arguments = command("--config", config(), "--trainer.default_root_dir", stopped, "--decision.folds", 3)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment())
        until = time.monotonic() + 120
        while not (stopped / "folds/1.json").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (128 + signal.SIGTERM, -signal.SIGTERM)  # within a training, or between two
    finished = len(list((stopped / "folds").glob("*.json")))
    assert finished < 3 and not (stopped / "metrics.json").exists()
    first = (stopped / "folds/1.json").stat().st_mtime_ns
    again = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment())
    assert f"{finished} of 3 folds are finished already, in {stopped}/folds" in again.stdout
    assert "Fold 1 of 3" not in again.stdout and (stopped / "folds/1.json").stat().st_mtime_ns == first
    assert decision_of(stopped).to_dict() == decision_of(home).to_dict()


def test_scores_of_another_training_are_refused(home: Path, config: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "run"
    write_fold(other / "folds", 0, json.loads((home / "folds/1.json").read_text()))
    arguments = ["--config", config(), "--trainer.default_root_dir", other, "--decision.folds", 3]
    done = subprocess.run(
        command(*arguments, "--model.lr", 0.5), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == (
        f"lit-ad: {other}/folds/1.json is of a training with another model.init_args.lr: train as before, or remove "
        f"{other}/folds, or give --overwrite true"
    )


def test_two_processes_give_the_same_scores(home: Path, config: Callable[..., Path], tmp_path: Path) -> None:
    """Each with half the batch."""
    more = {"data.batch_size": 2, "trainer.devices": 2}
    arguments = ["--config", config(**more), "--trainer.default_root_dir", tmp_path / "run", "--decision.folds", 3]
    subprocess.run(command(*arguments), capture_output=True, check=True, env=environment(), timeout=240)
    scores = decision_of(tmp_path / "run").scores["stripes"]
    assert scores == pytest.approx(decision_of(home).scores["stripes"], rel=1e-6)


def test_each_of_two_categories_has_its_own_and_one_image_shares_that_of_all(
    images: Path, keys: Callable[..., Keys], tmp_path: Path
) -> None:
    for category, count in (("bolt", 4), ("nut", 3), ("pin", 1)):
        for kind in ("train/good", "test/good"):
            (tmp_path / category / kind).mkdir(parents=True)
        for number in range(count):
            (tmp_path / category / f"train/good/{number}.png").hardlink_to(images / f"train/good/{number:03}.png")
        (tmp_path / category / "test/good/0.png").hardlink_to(images / "test/good/000.png")
    more = {"data.source": {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(tmp_path)}}, "data": {}}
    given = {**keys(), **more, "trainer.max_epochs": 1, "test_after_fit": False, "decision.folds": "leave-one-out"}
    run = fit(ROOT / "configs/stfpm.yaml", keys={**given, "trainer.default_root_dir": str(tmp_path / "run")})
    decision = run.detector().card.decision
    assert decision is not None
    assert {category: len(scores) for category, scores in decision.scores.items()} == {"bolt": 4, "nut": 3}
    assert decision.folds == {"bolt": [1, 1, 1, 1], "nut": [1, 1, 1, 0]}
    assert decision.threshold("pin") == decision.threshold()


def test_a_scale_comes_from_the_training_images(keys: Callable[..., Keys], tmp_path: Path) -> None:
    """EfficientAD's, which held-out images would set elsewhere: nothing but the threshold is chosen on scored ones."""
    more = {"data.shots": 3, "trainer.max_epochs": 1, "decision.folds": "leave-one-out", "test_after_fit": False}
    more["data.unrelated"] = None
    given = keys(
        "EfficientAD", **more, **{"trainer.precision": "32-true", "trainer.default_root_dir": str(tmp_path / "run")}
    )
    decision = fit(ROOT / "configs/efficient_ad_s.yaml", keys=given).detector().card.decision
    assert decision is not None and len(decision.scores["stripes"]) == 3
    assert not any(decision.also_chosen.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trainer.max_time": "00:01:00:00"}, "give trainer.max_epochs in place of max_time"),
        ({"trainer.limit_val_batches": 0.5}, "decision.folds scores every image: leave out trainer.limit_val_batches"),
        ({"trainer.max_epochs": -1}, "takes trainings of one length: set trainer.max_epochs or max_steps"),
        ({"decision.folds": 1}, "decision.folds is 1"),
        ({"decision.folds": 13}, "decision.folds is 13, but there are 12 nominal images"),
        (
            {
                "trainer.callbacks": [
                    {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}
                ]
            },
            "takes trainings of one length: leave out EarlyStopping",
        ),
    ],
)
def test_what_would_end_a_training_elsewhere_is_refused(
    more: Keys, message: str, keys: Callable[..., Keys], tmp_path: Path
) -> None:
    given = {**keys(), "decision.folds": 3, "trainer.default_root_dir": str(tmp_path / "run"), **more}
    with pytest.raises(UserError, match=message):
        fit(ROOT / "configs/stfpm.yaml", keys=given)


def test_records_of_folds_become_a_decision(tmp_path: Path) -> None:
    records = [
        {"scores": {"a": [3.0, 1.0]}, "maxima": {}, "medians": {}, "also_chosen": {"a": ["x"]}},
        {"scores": {"a": [2.0], "b": [5.0]}, "maxima": {}, "medians": {}, "also_chosen": {"a": ["x", "y"], "b": []}},
    ]
    for fold, record in enumerate(records):
        write_fold(tmp_path, fold, {"settings": {"steps": "1"}, **record})
    read = dict(read_folds(tmp_path, 3, {"steps": "1"}))
    decision = merge(list(read.values()), {"a": [2, 1], "b": [0, 1]})
    assert decision.scores["a"].tolist() == [1, 2, 3] and decision.scores["b"].tolist() == [5]
    assert decision.also_chosen == {"a": ["x", "y"], "b": []} and decision.folds == {"a": [2, 1], "b": [0, 1]}
