"""Faults of real machines end with a clear message or a clean resume, and nothing that was saved is lost."""

import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.data import get_worker_info

from lit_ad.batch import Batch
from lit_ad.checkpoint import write_checkpoint
from lit_ad.commands.main import main
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError

ROOT = Path(__file__).parents[1]
EPOCHS = 8  # so many that a run goes on while a busy machine waits for its checkpoint


def command(images: Path, weights: Path, run: Path, *more: object) -> list[str]:
    """Return the command of EPOCHS epochs of four batches, which logs every step's loss to logs/metrics.csv."""
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t", "--model.weights", weights),
        *(
            "--data.source.root",
            images,
            "--model.view.image_size",
            64,
            "--data.batch_size",
            2,
            "--data.split.val_fraction",
            0.34,
        ),
        *("--trainer.max_epochs", EPOCHS, "--trainer.default_root_dir", run, "--trainer.enable_progress_bar", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", 1),
        *("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", run / "logs"),
        *more,
    ]
    return [sys.executable, "-m", "lit_ad", *map(str, arguments)]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, env=environment, stdout=log.open("ab"), stderr=subprocess.STDOUT)


def run_to_end(arguments: list[str], log: Path) -> str:
    """Run a command, which must succeed, and return its output."""
    assert start(arguments, log).wait(300) == 0, log.read_text()[-5000:]
    return log.read_text()


def refusal(*arguments: object) -> str:
    """Return the message with which a command, run in this process, ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    return str(stop.value)


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not there():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def losses(run: Path) -> dict[int, float]:
    """Return the loss of each step. Those of a resumed run replace those of the run that it continues."""
    found = {}
    for table in sorted(run.glob("logs/lightning_logs/*/metrics.csv")):
        with table.open() as file:
            found.update(
                {
                    int(row["step"]): float(row["train/loss_step"])
                    for row in csv.DictReader(file)
                    if row["train/loss_step"]
                }
            )
    return found


def metrics(run: Path) -> object:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(images: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a fault."""
    home = tmp_path_factory.mktemp("undisturbed")
    run_to_end(command(images, resnet_file, home), home / "log")
    assert len(losses(home)) == 4 * EPOCHS
    return home


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_sigkill_within_an_epoch_resumes_exactly(
    undisturbed: Path, images: Path, resnet_file: Path, tmp_path: Path, workers: int
) -> None:
    """It resumes from a checkpoint of every third step, in the middle of the second epoch."""
    often = ("--checkpoint.every_n_train_steps", 3, "--checkpoint.save_top_k", 0, "--data.loading.num_workers", workers)
    arguments = command(images, resnet_file, tmp_path, *often)
    process = start(arguments, tmp_path / "log")
    last = tmp_path / "checkpoints/last.ckpt"
    wait_for(lambda: last.exists() and torch.load(last, weights_only=True)["global_step"] >= 6, process)
    process.kill()
    process.wait()
    saved = torch.load(last, weights_only=True)["global_step"]
    run_to_end([*arguments, "--ckpt_path", str(last)], tmp_path / "log")
    assert {**losses(undisturbed), **losses(tmp_path)} == losses(undisturbed)
    assert set(range(saved, 4 * EPOCHS)) <= set(losses(tmp_path))


@pytest.mark.slow
def test_sigterm_at_the_last_batch_of_an_epoch_resumes_exactly(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """The batch is the only one of its epoch."""
    more = ("--data.batch_size", 8, "--trainer.max_epochs", 4 * EPOCHS)
    run_to_end(command(images, resnet_file, tmp_path / "undisturbed", *more), tmp_path / "undisturbed.log")
    arguments = command(images, resnet_file, tmp_path / "stopped", *more)
    process, last = start(arguments, tmp_path / "log"), tmp_path / "stopped/checkpoints/last.ckpt"
    wait_for(last.exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    run_to_end([*arguments, "--ckpt_path", str(last)], tmp_path / "log")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "undisturbed")


def test_sigterm_saves_at_once_and_resumes_exactly(
    undisturbed: Path, images: Path, resnet_file: Path, tmp_path: Path
) -> None:
    arguments = command(images, resnet_file, tmp_path)
    process, last = start(arguments, tmp_path / "log"), tmp_path / "checkpoints/last.ckpt"
    wait_for(last.exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert "Stopped by SIGTERM" in (tmp_path / "log").read_text()
    assert not (tmp_path / "metrics.json").exists()  # a run that was stopped is not tested
    run_to_end([*arguments, "--ckpt_path", str(last)], tmp_path / "log")
    assert losses(tmp_path).items() <= losses(undisturbed).items()  # the step that was stopped may be missing
    assert max(losses(tmp_path)) == 4 * EPOCHS - 1
    assert metrics(tmp_path) == metrics(undisturbed)


STOPPER = """
import os, signal
import lightning as L

class Stop(L.Callback):
    \"\"\"A signal before a batch of the first process.\"\"\"

    def __init__(self, hook: str, batch: int = 0, number: int = signal.SIGINT) -> None:
        stop = lambda trainer, model, data, index, *_: (
            index == batch and trainer.is_global_zero and os.kill(os.getpid(), number)
        )
        setattr(self, hook, stop)
"""


def stop_at(arguments: list[str], hook: str, batch: int, folder: Path, number: signal.Signals = signal.SIGINT) -> str:
    """Send a signal to a command at a batch, and return its output."""
    (folder / "stopper.py").write_text(STOPPER)
    callback = {"class_path": "stopper.Stop", "init_args": {"hook": hook, "batch": batch, "number": int(number)}}
    (folder / "stopper.yaml").write_text(json.dumps({"trainer": {"callbacks": [callback]}}))
    done = subprocess.run(
        [*arguments, "--config", str(folder / "stopper.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal, not in the background
    )
    assert done.returncode == 128 + number, done.stdout[-5000:]
    return done.stdout


def test_ctrl_c_within_the_first_epoch_resumes_exactly(
    undisturbed: Path, images: Path, resnet_file: Path, tmp_path: Path
) -> None:
    arguments, last = command(images, resnet_file, tmp_path), tmp_path / "checkpoints/last.ckpt"
    said = stop_at(arguments, "on_train_batch_start", 1, tmp_path)
    assert "Ctrl-C: stopping after this batch" in said
    assert f"Stopped by Ctrl-C. To go on: --ckpt_path {last}\n" in said
    assert "Traceback" not in said
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert not (tmp_path / "metrics.json").exists()
    run_to_end([*arguments, "--ckpt_path", str(last)], tmp_path / "log")
    assert losses(tmp_path).items() <= losses(undisturbed).items()
    assert metrics(tmp_path) == metrics(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)]
)
def test_a_signal_within_the_test_tells_how_to_test_again(
    undisturbed: Path, images: Path, resnet_file: Path, tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    arguments = command(images, resnet_file, tmp_path)
    if processes > 1:
        arguments = [*arguments, "--trainer.devices", "2", "--data.batch_size", "1"]
    said = stop_at(arguments, "on_test_batch_start", 1, tmp_path, number)
    assert "Traceback" not in said
    (again,) = (line.partition("To test: lit-ad ")[2] for line in said.splitlines() if "Stopped by " in line)
    assert not (tmp_path / "metrics.json").exists()
    if processes > 1:
        return
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["trainer"]["callbacks"] = None  # the one that stopped it
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run_to_end([sys.executable, "-m", "lit_ad", *shlex.split(again)], tmp_path / "log")
    assert metrics(tmp_path) == metrics(undisturbed)


@pytest.mark.slow
def test_ctrl_c_before_anything_is_saved_tells_so(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    sanity = ["--trainer.num_sanity_val_steps", "1"]  # a validation before the first step
    said = stop_at([*command(images, resnet_file, tmp_path), *sanity], "on_validation_batch_start", 0, tmp_path)
    assert "Stopped by Ctrl-C. Nothing was saved yet\n" in said and "Traceback" not in said
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("rank", "number"),
    [
        (0, signal.SIGTERM),
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_together(
    images: Path, resnet_file: Path, tmp_path: Path, number: signal.Signals, rank: int
) -> None:
    """Whichever stops or dies, neither hangs, and there is a checkpoint to resume. One has no image to validate."""
    more: tuple[object, ...] = ("--trainer.devices", 2, "--trainer.max_epochs", 1000, "--data.split.val_fraction", 0.08)
    more += ("--trainer.enable_progress_bar", "true")
    arguments = command(images, resnet_file, tmp_path, *more)
    process, last = start(arguments, tmp_path / "log"), tmp_path / "checkpoints/last.ckpt"
    wait_for(last.exists, process)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill((process.pid, child)[rank], number)
    try:
        assert process.wait(120) != 0
        deadline = time.monotonic() + 300
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{child}").exists()
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert torch.load(last, weights_only=True)["global_step"] > 0


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_two_processes_together(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """All processes of the terminal get the signal."""
    more = ("--trainer.devices", 2, "--trainer.max_epochs", 1000, "--trainer.enable_progress_bar", "true")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(images, resnet_file, tmp_path, *more),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    last = tmp_path / "checkpoints/last.ckpt"
    try:
        wait_for(last.exists, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(120) == 128 + signal.SIGINT
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert f"Stopped by Ctrl-C. To go on: --ckpt_path {last}" in said and "Traceback" not in said


def test_a_second_fit_is_refused_while_the_first_runs(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """This holds even with --overwrite. Files that a dead run has left do not stop another command."""
    run, last = tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt"
    arguments = command(images, resnet_file, run, "--trainer.max_epochs", 1000)
    process = start(arguments, tmp_path / "log")
    try:
        wait_for(last.exists, process)
        said = refusal(*arguments[3:], "--overwrite", "true")
        assert f"{run} is in use: process {process.pid} on " in said
    finally:
        process.kill()
        process.wait()
    model = ("--config", str(run / "config.yaml"), "--ckpt_path", str(last))
    lit_ad = [sys.executable, "-m", "lit_ad"]
    run_to_end([*lit_ad, "predict", *model, "--data.predict_path", str(images / "test")], tmp_path / "predict.log")
    epochs = str(torch.load(last, weights_only=True)["epoch"] + 2)
    told = run_to_end([*lit_ad, "fit", *model, "--trainer.max_epochs", epochs], tmp_path / "again.log")
    assert f"was in use by process {process.pid} on " in told
    assert not (run / ".run_owner.json").exists()


def test_a_full_disk_leaves_the_old_checkpoint(
    undisturbed: Path, images: Path, resnet_file: Path, small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """best.ckpt and last.ckpt of the second epoch are written beside those of the first."""
    disk = small_disk("25m")  # room for two of this student, not for three
    arguments = command(images, resnet_file, tmp_path, "--checkpoint.dirpath", disk)
    assert start(arguments, tmp_path / "log").wait(200) == 1
    said, last = (tmp_path / "log").read_text().splitlines()[-1], disk / "last.ckpt"
    assert said.startswith((f"lit-ad: cannot write {disk}/best.ckpt", f"lit-ad: cannot write {disk}/last.ckpt"))
    assert "No space left on device" in said
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert sorted(path.name for path in disk.iterdir()) == ["best.ckpt", "last.ckpt"]
    elsewhere = ("--checkpoint.dirpath", tmp_path / "checkpoints", "--ckpt_path", last)
    run_to_end(command(images, resnet_file, tmp_path, *elsewhere), tmp_path / "log")
    assert metrics(tmp_path) == metrics(undisturbed)


def test_a_disk_that_fills_while_the_cache_is_written(
    images: Path, resnet_file: Path, small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """It had room when the cache was begun."""
    disk = small_disk("25m")
    cache = disk / "cache"
    more = ("--cache.enabled", "true", "--cache.directory", cache, "--model.view.image_size", 256)
    process = start(command(images, resnet_file, tmp_path / "run", *more, "--data.batch_size", 1), tmp_path / "log")
    wait_for(lambda: any(cache.glob("*.partial")), process)
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))
    assert process.wait(100) == 1
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said.startswith(f"lit-ad: cannot write the cache {cache}") or "the disk is too small for the cache" in said
    assert "cache.directory" in said
    assert not [path for path in cache.iterdir() if path.is_dir()]


class Code:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.made), "w")


def arguments_for(subcommand: str, checkpoint: Path, run: Path) -> list[object]:
    """Return a command that reads a checkpoint."""
    if subcommand in ("speed", "serve"):
        return [subcommand, checkpoint]
    if subcommand in ("export", "recalibrate"):
        folder = ["--nominal", run / "images"] if subcommand == "recalibrate" else []
        return [subcommand, "--ckpt_path", checkpoint, *folder, "--output", run.with_name("out.ckpt")]
    images = ["--data.predict_path", run / "images"] if subcommand == "predict" else []
    return [subcommand, "--config", run / "config.yaml", "--ckpt_path", checkpoint, *images]


COMMANDS = ("fit", "test", "predict", "export", "recalibrate", "speed", "serve")


@pytest.mark.parametrize("subcommand", COMMANDS)
@pytest.mark.parametrize("fault", ["truncated", "empty", "code", "other", "missing", "inverted"])
def test_a_bad_checkpoint_is_refused(undisturbed: Path, tmp_path: Path, subcommand: str, fault: str) -> None:
    if fault not in ("code", "inverted") and subcommand not in COMMANDS[:3]:
        pytest.skip("all commands read checkpoints by one function: two faults of each are enough")
    good, bad = undisturbed / "checkpoints/last.ckpt", tmp_path / "bad.ckpt"
    content = good.read_bytes()
    if fault == "truncated":
        bad.write_bytes(content[:-5000])
    elif fault == "empty":
        bad.touch()
    elif fault == "code":
        torch.save({**torch.load(good, weights_only=True), "more": Code(tmp_path / "made")}, bad)
    elif fault == "other":
        torch.save({"a": torch.zeros(3)}, bad)
    elif fault == "inverted":  # in the weights: without a checksum, they would be used
        middle = len(content) // 2
        inverted = bytes(255 - byte for byte in content[middle : middle + 2000])
        bad.write_bytes(content[:middle] + inverted + content[middle + 2000 :])
    more = ["--trainer.default_root_dir", tmp_path / "run"] if subcommand in COMMANDS[:3] else []
    said = refusal(*arguments_for(subcommand, bad, undisturbed), *more)
    assert said.startswith("lit-ad: ") and len(said.splitlines()) == 1
    assert str(bad) in said
    assert ("is damaged" in said) == (fault in ("truncated", "empty", "inverted"))
    assert "weights_only" not in said and "trust" not in said  # torch's advice
    assert fault != "code" or "it holds io.open, which is neither a tensor" in said
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "run/metrics.json").exists()


class Deadly(AnomalyDataset):
    """Kills the worker process that reads an item."""

    def __getitem__(self, index: int) -> Batch:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_killed_worker_is_explained_by_memory(
    cache: str, images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is about memory, not about a full disk: while features are computed, and in training."""
    monkeypatch.setattr("lit_ad.data.dataset.AnomalyDataset", Deadly)
    more = [
        *("--data.loading.cache_images", "false", "--data.loading.num_workers", 1),
        *("--cache.enabled", cache, "--cache.directory", tmp_path / "cache"),
    ]
    said = refusal(*command(images, resnet_file, tmp_path / "run", *more)[3:])
    assert said.startswith("lit-ad: a process that loads images was killed, most likely because the memory ran out")
    assert len(said.splitlines()) == 1


def test_a_worker_killed_while_a_checkpoint_is_written_is_not_reported_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises the error of a worker in the main process, wherever that process is at the moment."""

    def save(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 4592) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match="a process that loads images was killed, most likely because the memory"):
        write_checkpoint({}, tmp_path / "a.ckpt")


@pytest.mark.parametrize("workers", [0, 2])
def test_one_corrupt_image_among_many_is_named(images: Path, resnet_file: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(images, tmp_path / "images")
    bad = tmp_path / "images/train/good/007.png"
    bad.write_bytes(bad.read_bytes()[:1000])
    more = ("--data.loading.cache_images", "false", "--data.loading.num_workers", workers)
    arguments = command(tmp_path / "images", resnet_file, tmp_path / "run", *more)
    said = refusal(*arguments[3:])
    assert f"cannot read {bad}" in said
    assert len(said.splitlines()) == 1
