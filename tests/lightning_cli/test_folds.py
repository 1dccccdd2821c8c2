"""`decision.folds`: real trainings of small images, stopped and resumed, by one process and by two."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.detector.detector import Detector
from lit_ad.detector.summary import summarize
from lit_ad.errors import UserError
from lit_ad.lightning_cli import folds
from lit_ad.lightning_cli.folds import merge, read_folds, write_fold
from lit_ad.methods import STFPM
from lit_ad.run import fit, write_words

ROOT = Path(__file__).parents[2]
Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(images: Path, small_models: dict[str, Keys]) -> Callable[..., Keys]:
    """A function keys(method, more keys) that returns the keys of a short training on 12 nominal images."""

    def make(method: str = "STFPM", **more: Any) -> Keys:
        return {
            "model": small_models[method],
            "data": {"source": {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(images)}}},
            **({"model.view.image_size": 32} if method == "STFPM" else {}),
            "data.batch_size": 4,
            "trainer.accelerator": "cpu",
            "trainer.max_epochs": 2,
            "trainer.precision": "64-true",  # so that only an error, and no rounding, makes a difference
            "trainer.enable_progress_bar": False,
            "data.loading.num_workers": 0,
            **more,
        }

    return make


class Printed:
    """Collects what a training in this process prints, to stdout, stderr and the log."""

    def __init__(self) -> None:
        self.text = io.StringIO()

    def __enter__(self) -> io.StringIO:
        self.handler = logging.StreamHandler(self.text)
        logging.getLogger("lightning.pytorch").addHandler(self.handler)
        self.redirected = redirect_stdout(self.text)
        self.redirected.__enter__()
        return self.text

    def __exit__(self, *error: Any) -> None:
        self.redirected.__exit__(*error)
        logging.getLogger("lightning.pytorch").removeHandler(self.handler)


def decision_of(home: Path) -> Any:
    return Detector.load(home).card.decision


@pytest.fixture(scope="module")
def home(keys: Callable[..., Keys], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three folds; the lines that it printed lie beside it."""
    home = tmp_path_factory.mktemp("folds") / "run"
    with pytest.MonkeyPatch.context() as patch, Printed() as printed, warnings.catch_warnings(record=True) as warned:
        patch.setenv("XDG_CACHE_HOME", str(home.parent / "cache"))
        train(keys(), home)
    (home.parent / "printed").write_text(printed.getvalue() + "".join(str(each.message) for each in warned))
    return home


def train(keys: Keys, home: Path, folds: int | str = 3) -> None:
    fit(ROOT / "configs/stfpm.yaml", keys={"decision.folds": folds, "trainer.default_root_dir": str(home), **keys})


def test_every_nominal_image_trains_and_decides(home: Path) -> None:
    decision = decision_of(home)
    assert decision.folds == {"stripes": [4, 4, 4]} and not any(decision.also_chosen.values())
    assert [len(getattr(decision, name)["stripes"]) for name in ("scores", "maxima", "medians")] == [12] * 3
    told = json.loads((home / "metrics.json").read_text())["decision"]["thresholds"][0]
    assert told["folds"] == 3 and told["kept_rate"] == pytest.approx(1 / 13) and not told["exact"]
    assert "This detector was trained on all 12 nominal images" in (home / "report.html").read_text()
    assert sorted(path.name for path in (home / "folds").iterdir()) == ["1.json", "2.json", "3.json"]


def test_the_scores_are_those_of_detectors_without_the_fold(home: Path, keys: Callable[..., Keys]) -> None:
    """A fold trains six steps, like the last training with its 2 epochs of 3 batches."""
    alone = home.parent / "alone"
    train({**keys(), "data.split.fold": 1, "trainer.max_steps": 6, "trainer.max_epochs": -1}, alone)
    record = json.loads((home / "folds/2.json").read_text())
    assert record["settings"]["steps"] == "6"
    assert decision_of(alone).scores["stripes"] == pytest.approx(record["scores"]["stripes"])
    assert set(record["scores"]["stripes"]) < set(decision_of(home).scores["stripes"])


def test_p_values_and_threshold_come_from_all_left_out_scores(home: Path) -> None:
    left_out = np.concatenate(
        [json.loads((home / f"folds/{fold}.json").read_text())["scores"]["stripes"] for fold in (1, 2, 3)]
    )
    detector = Detector.load(home)
    decision = detector.card.decision
    assert decision is not None
    for score in [*left_out, left_out.max() + 1, left_out.min() - 1]:
        assert decision.p_value(score) == pytest.approx((1 + np.count_nonzero(left_out >= score)) / 13)
    assert decision.threshold() == left_out.max() and decision.with_rate(2 / 13).threshold() == np.sort(left_out)[-2]


def test_the_command_prints_the_folds_and_the_guarantee(home: Path) -> None:
    printed = (home.parent / "printed").read_text()
    assert "decision.folds 3: 4 trainings, about 4 times as long as one. 3 of them each leave out a part" in printed
    for fold in (1, 2, 3):
        assert f"Fold {fold} of 3: trained on 8 images, scored the 4 others; about 0:0" in printed
    assert printed.count("to train on,") == 2  # of the first fold, and of the last training
    for line in ("Features of", "Seed set"):
        assert printed.count(line) == (line == "Features of")  # the first fold says it for all
    assert printed.count("12 nominal images allow a false-alarm rate of 0.0769 and no lower") == 1


def test_all_trainings_share_one_cache_of_features(home: Path) -> None:
    stores = [path for path in (home.parent / "cache/lit_ad/features").iterdir() if path.is_dir()]
    assert len(stores) == 1


@pytest.mark.parametrize(
    ("place", "number"), [("between", signal.SIGTERM), ("between", signal.SIGINT), ("within", signal.SIGTERM)]
)
def test_a_stopped_run_resumes_the_fold(
    place: str, number: signal.Signals, home: Path, keys: Callable[..., Keys], tmp_path: Path
) -> None:
    stopped, handlers = tmp_path / "run", [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    between, given = place == "between", {**keys(), "test_after_fit": False}
    finish, batch = folds.write_fold, STFPM.training_step

    def write(*arguments: Any) -> None:
        finish(*arguments)
        os.kill(os.getpid(), number)

    def step(method: STFPM, batch_: Any, *more: Any) -> Any:
        if method.trainer.default_root_dir.endswith("folds/2") and method.trainer.global_step == 3:
            os.kill(os.getpid(), number)
        return batch(method, batch_, *more)

    with pytest.MonkeyPatch.context() as patch, Printed() as printed:
        patch.setattr(*((folds, "write_fold", write) if between else (STFPM, "training_step", step)))
        with pytest.raises(SystemExit if number == signal.SIGTERM or not between else KeyboardInterrupt) as end:
            train(given, stopped)
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert f"Stopped by {name}. To go on: --trainer.default_root_dir {stopped}\n" in printed.getvalue()
    assert printed.getvalue().count("Stopped by") == 1
    assert not isinstance(end.value, SystemExit) or end.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert [path.name for path in (stopped / "folds").glob("*.json")] == ["1.json"]
    assert (stopped / "folds/2/checkpoints/last.ckpt").is_file() is not between
    first = (stopped / "folds/1.json").stat().st_mtime_ns
    if number == signal.SIGINT:
        return  # what goes on is the same
    with Printed() as printed:
        train(given, stopped)
    assert f"1 of 3 folds are finished already, in {stopped}/folds" in printed.getvalue()
    assert "Fold 1 of 3" not in printed.getvalue() and (stopped / "folds/1.json").stat().st_mtime_ns == first
    # Lightning loads weights of 64 bits into 32, before it converts the model.
    assert decision_of(stopped).scores["stripes"] == pytest.approx(
        decision_of(home).scores["stripes"], rel=0 if between else 1e-5
    )


@pytest.mark.slow
def test_a_signal_between_two_folds_ends_the_command_in_order(keys: Callable[..., Keys], tmp_path: Path) -> None:
    """In a process of its own, because the exit code is tested: that of a signal that was handled."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPING, *words(keys(), tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert f"Stopped by SIGTERM. To go on: --trainer.default_root_dir {tmp_path}/run" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr and not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_slurms_signal_between_two_folds_requeues_the_job(keys: Callable[..., Keys], tmp_path: Path) -> None:
    """Before the first fold, after each, and in the last training, which has a checkpoint to go on from."""
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "folds", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "here", "SLURM_NTASKS_PER_NODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLING, *words(keys(), tmp_path / "run", folds=2)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "requeue 17\n" * 4
    assert (tmp_path / "run/hpc_ckpt_1.ckpt").is_file() and (tmp_path / "run/metrics.json").is_file()


SIGNALLING = """
import os, signal
from lit_ad.commands.main import main
from lit_ad.lightning_cli import folds
from lit_ad.training.interruption import Interruption
finish, begin, batch = folds.write_fold, folds._configure_fold, Interruption.on_train_batch_end
def write(*arguments):
    finish(*arguments)
    os.kill(os.getpid(), signal.SIGUSR1)
def first(config, fold, *arguments, **more):
    if fold == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
    return begin(config, fold, *arguments, **more)
def last(self, trainer, *arguments):
    if not self.part and trainer.global_step == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    batch(self, trainer, *arguments)
folds.write_fold, folds._configure_fold, Interruption.on_train_batch_end = write, first, last
main()
"""


STOPPING = """
import os, signal
from lit_ad.commands.main import main
from lit_ad.lightning_cli import folds
finish = folds.write_fold
def write(*arguments):
    finish(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
folds.write_fold = write
main()
"""


def words(keys: Keys, home: Path, folds: int = 3) -> list[str]:
    """Of the command of the same training."""
    given = {"decision.folds": folds, "trainer.default_root_dir": str(home), **keys}
    return ["fit", *write_words(ROOT / "configs/stfpm.yaml", None, given)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_scores_of_another_training_are_refused(home: Path, keys: Callable[..., Keys], tmp_path: Path) -> None:
    other = tmp_path / "run"
    write_fold(other / "folds", 0, json.loads((home / "folds/1.json").read_text()))
    with pytest.raises(UserError) as refused:
        train({**keys(), "model.lr": 0.5, "trainer.gradient_clip_val": 0.1}, other)
    assert str(refused.value) == (
        f"{other}/folds/1.json comes from a training that differs in trainer.gradient_clip_val, model.init_args.lr: "
        f"train as before, or remove {other}/folds, or give --overwrite true"
    )
    (other / "folds/1.json").write_text('{"scores": ')
    with pytest.raises(UserError, match=r"folds/1\.json is damaged: remove it, and the fold is trained again"):
        train(keys(), other)


@pytest.mark.slow
def test_two_processes_give_the_same_scores(home: Path, keys: Callable[..., Keys], tmp_path: Path) -> None:
    """Each process has half of the batch."""
    given = {**keys(), "data.batch_size": 2, "trainer.devices": 2, "test_after_fit": False}
    arguments = [sys.executable, "-m", "lit_ad", *words(given, tmp_path / "run")]
    subprocess.run(arguments, capture_output=True, check=True, env=environment(), timeout=240)
    scores = decision_of(tmp_path / "run").scores["stripes"]
    assert scores == pytest.approx(decision_of(home).scores["stripes"], rel=1e-6)


@pytest.mark.slow
def test_a_signal_to_the_first_of_two_processes_ends_both(keys: Callable[..., Keys], tmp_path: Path) -> None:
    """Between two folds there is no collective in which the processes could agree."""
    given = {**keys(), "data.batch_size": 2, "trainer.devices": 2, "test_after_fit": False}
    (tmp_path / "stopping.py").write_text(STOPPING)  # the first process starts the second by this name
    command = [sys.executable, str(tmp_path / "stopping.py"), *words(given, tmp_path / "run")]
    process = subprocess.Popen(command, env=environment(), start_new_session=True)
    assert process.wait(240) == 128 + signal.SIGTERM
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break  # none of the session is left
        time.sleep(0.1)
    else:
        raise AssertionError("the second process is left")
    assert [path.name for path in (tmp_path / "run/folds").glob("*.json")] == ["1.json"]


def test_each_category_has_its_own_threshold_and_a_single_image_shares_that_of_all(
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


def test_several_images_of_one_part_make_the_rate_approximate(
    images: Path, keys: Callable[..., Keys], tmp_path: Path
) -> None:
    lines = [f"train/good/{number:03}.png,train,nominal,part {number // 2}" for number in range(4)]
    table = tmp_path / "parts.csv"
    table.write_text("\n".join(["path,split,label,item", *lines, "test/good/000.png,test,nominal,part 9"]))
    source = {"class_path": "lit_ad.data.Table", "init_args": {"root": str(images), "table": str(table)}}
    more = {"data.source": source, "data": {}, "trainer.max_epochs": 1, "test_after_fit": False, "decision.folds": 2}
    run = fit(ROOT / "configs/stfpm.yaml", keys={**keys(), **more, "trainer.default_root_dir": str(tmp_path / "run")})
    decision = run.detector().card.decision
    assert decision is not None
    (told,) = summarize(decision)["thresholds"]
    assert "is approximate: several of the images that set the threshold show one part" in told["guarantee"]
    assert told["image"]["held_out"] == 4 and told["rate_proven_of_folds"] is None


def test_a_scale_comes_from_the_training_images(keys: Callable[..., Keys], tmp_path: Path) -> None:
    """EfficientAD's scale, which left-out images must not set: only the threshold comes from scored images."""
    more = {"data.split.shots": 3, "trainer.max_epochs": 1, "decision.folds": "leave-one-out", "test_after_fit": False}
    more["data.unrelated"] = None
    given = keys(
        "EfficientAD", **more, **{"trainer.precision": "32-true", "trainer.default_root_dir": str(tmp_path / "run")}
    )
    decision = fit(ROOT / "configs/efficient_ad_s.yaml", keys=given).detector().card.decision
    assert decision is not None and len(decision.scores["stripes"]) == 3
    assert not any(decision.also_chosen.values())


TIMER = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:01:00:00"}}
PROCESSOR_TIME = {"class_path": "lit_ad.benchmark.budget.ProcessorTime", "init_args": {"minutes": 1}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trainer.max_time": "00:01:00:00"}, "give trainer.max_epochs in place of max_time"),
        ({"trainer.callbacks": [TIMER]}, "needs trainings of one length: leave out Timer"),
        ({"trainer.callbacks": [PROCESSOR_TIME]}, "needs trainings of one length: leave out ProcessorTime"),
        ({"trainer.limit_val_batches": 0.5}, "decision.folds scores every image: leave out trainer.limit_val_batches"),
        ({"trainer.overfit_batches": 1}, "decision.folds scores every image: leave out trainer.overfit_batches"),
        ({"trainer.limit_train_batches": 0.3}, "trainer.limit_train_batches 0.3 leaves none of 3 batches"),
        (
            {"data.batch_size": 16, "data.loading.drop_last": True, "trainer.max_epochs": -1, "trainer.max_steps": 4},
            "data.loading.drop_last leaves nothing to train on: of 12 images there is no batch of 16",
        ),
        ({"trainer.max_epochs": -1}, "needs trainings of one length: give trainer.max_epochs or max_steps"),
        ({"decision.folds": 1}, "decision.folds is 1"),
        ({"decision.folds": 13}, "decision.folds is 13, but there are 12 nominal images"),
        (
            {
                "trainer.callbacks": [
                    {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}
                ]
            },
            "needs trainings of one length: leave out EarlyStopping",
        ),
    ],
)
def test_settings_that_would_end_a_training_early_are_refused(
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
