"""Several processes of the CLI give the numbers of one process and write one set of files."""

import ast
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_ad.methods import __all__ as METHODS
from tests.serving import find_free_port

ROOT = Path(__file__).parents[1]
DISTILLATION = "lit_ad.training.distillation.Distillation"
COUNT = 7  # neither 2 nor 3 divides it


def lit_ad(*arguments: object) -> None:
    launch([[sys.executable, "-m", "lit_ad", *map(str, arguments)]], {})


def launch(commands: list[list[str]], environment: Mapping[str, str], seconds: float = 300) -> str:
    """Run commands together and return their output. All must succeed in time; then all that they started is killed."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryFile("w+") as log, ExitStack() as stack:
        started = []
        for rank, command in enumerate(commands):
            own = {name: value.replace("RANK", str(rank)) for name, value in common.items()}
            process = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
            stack.callback(kill_session, process)
            started.append(process)
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in started) and time.monotonic() < deadline:
            time.sleep(0.1)
        log.seek(0)
        printed = log.read()
    codes = [process.returncode for process in started]
    assert codes == [0] * len(codes), f"exit codes {codes} after {seconds} seconds at most:\n{printed[-5000:]}"
    return printed


def kill_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def commands_of(launcher: str, processes: int, arguments: list[str]) -> tuple[list[list[str]], dict[str, str]]:
    """Return the commands that a launcher runs on one machine, and their environment."""
    python = [sys.executable, "-m", "lit_ad", *arguments]
    if launcher == "torchrun":  # which lit-ad sees by itself
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return [[*torchrun, *python[1:]]], {}
    python += ["--trainer.devices", str(processes)]
    if launcher == "srun":
        slurm = {"NTASKS": processes, "NTASKS_PER_NODE": processes, "NNODES": 1, "NODEID": 0, "JOB_NAME": "test"}
        slurm |= {"PROCID": "RANK", "LOCALID": "RANK", "JOB_ID": 17, "NODELIST": "localhost"}
        environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        return [python] * processes, {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    return [python], {}


LOGS = """
import lightning as L

class Logs(L.Callback):
    def on_train_batch_end(self, trainer, model, *_):
        model.log("of_batches", float(trainer.global_rank), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def on_train_epoch_end(self, trainer, model):
        model.log("of_epoch", float(trainer.global_rank), sync_dist=True, batch_size=1)
"""


@pytest.mark.parametrize(
    ("launcher", "processes", "bar"),
    [
        ("devices", 2, "default"),
        *(
            pytest.param(launcher, processes, bar, marks=pytest.mark.slow)
            for launcher in ("devices", "torchrun", "srun")
            for processes in (2, 3)
            for bar in ("TQDMProgressBar", "RichProgressBar")
        ),
    ],
)
def test_processes_with_all_defaults_end(
    images: Path, resnet_file: Path, tmp_path: Path, launcher: str, processes: int, bar: str
) -> None:
    """There are a progress bar, dashboards, heatmaps, a report, epochs with and without validation, and values of a
    user's callback that Lightning reduces over the processes when they are first read."""
    (tmp_path / "logs.py").write_text(LOGS)
    callbacks = ["logs.Logs"] if bar == "default" else [bar, "logs.Logs"]
    config = {
        "trainer": {"callbacks": [{"class_path": name} for name in callbacks], "max_epochs": 3},
        "dashboards": ["tensorboard", "wandb"],
    }
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(config))
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--config", tmp_path / "more.yaml"),
        *("--model.backbone", "resnet10t", "--model.weights", resnet_file, "--model.view.image_size", 64),
        *("--data.source.root", images, "--data.batch_size", 2, "--trainer.accelerator", "cpu"),
        *("--trainer.check_val_every_n_epoch", 2, "--trainer.default_root_dir", tmp_path / "run"),
    ]
    commands, environment = commands_of(launcher, processes, [*map(str, arguments)])
    printed = launch(commands, {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", **environment})
    assert f"Starting with {processes} processes" in printed
    for file in ("metrics.json", "report.html", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "heatmaps"):
        assert (tmp_path / "run" / file).exists()
    board = EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    for name in ("of_batches", "of_epoch"):
        assert [event.value for event in board.Scalars(name)] == [(processes - 1) / 2] * 3
    assert len(board.Scalars("train/loss_epoch")) == len(board.Scalars("train/images_per_second")) == 3


REQUEUE = """
import os, signal
import lightning as L

class Requeue(L.Callback):
    def on_train_batch_end(self, trainer, model, outputs, batch, index):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_test_batch_start(self, trainer, model, batch, index, loader=0):
        if index == trainer.global_rank == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
def test_a_signal_of_slurm_requeues_from_one_place(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """Within an epoch all save together. Within the test, where their positions may differ, none saves."""
    (tmp_path / "requeue.py").write_text(REQUEUE)
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "requeue.Requeue"}]}}))
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--config", tmp_path / "more.yaml"),
        *("--model.backbone", "resnet10t", "--model.weights", resnet_file, "--model.view.image_size", 64),
        *("--data.source.root", images, "--data.batch_size", 1, "--trainer.max_epochs", 1),
        *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path / "run"),
    ]
    commands, environment = commands_of("srun", 2, [*map(str, arguments)])
    environment |= {
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    launch(commands, environment)
    assert (tmp_path / "asked").read_text() == "requeue 17\n" * 2
    assert [path.name for path in (tmp_path / "run").glob("hpc_ckpt_*")] == ["hpc_ckpt_1.ckpt"]
    assert (tmp_path / "run/metrics.json").is_file()


RAISES = """
import lightning as L
from lit_ad.errors import UserError

class Raises(L.Callback):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_start(self, trainer, model):
        if trainer.global_rank == self.rank:
            raise UserError("what the user can mend")
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_both_with_one_line(
    images: Path, resnet_file: Path, tmp_path: Path, rank: int
) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    raises = {"class_path": "raises.Raises", "init_args": {"rank": rank}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [raises]}}))
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--config", tmp_path / "more.yaml"),
        *("--model.backbone", "resnet10t", "--model.weights", resnet_file, "--model.view.image_size", 64),
        *("--data.source.root", images, "--trainer.accelerator", "cpu", "--trainer.devices", 2),
        *("--trainer.default_root_dir", tmp_path / "run"),
    ]
    command = [sys.executable, "-m", "lit_ad", *map(str, arguments)]
    with pytest.raises(AssertionError, match=r"exit codes \[(1|-9)\]") as failure:
        launch([command], {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    printed = str(failure.value)
    assert "lit-ad: what the user can mend" in printed
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, resnet_file: Path) -> Path:
    """A run of one process, and its test images: three good ones and two defect types; some are views of one part."""
    home = tmp_path_factory.mktemp("distributed")
    items = {"test/good/0": "a", "test/good/1": "a", "test/good/2": "b", "test/dot/0": "b", "test/line/0": "c"}
    table = ["path,split,label,defect,mask,item"]
    generator = np.random.default_rng(0)
    for folder, count in (("train/good", 4), ("test/good", 3), ("test/dot", 2), ("test/line", COUNT - 5)):
        (home / "data" / folder).mkdir(parents=True)
        (home / "data/ground_truth" / Path(folder).name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels, mask = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), np.uint8)
            if "good" not in folder:
                mask[10:20, 5 : 12 + 4 * i] = 255
                pixels[mask > 0] = 255
                Image.fromarray(mask).save(home / f"data/ground_truth/{Path(folder).name}/{i}.png")
            Image.fromarray(pixels).save(home / f"data/{folder}/{i}.png")
            split, defect = folder.split("/")
            truth = "0,," if defect == "good" else f"1,{defect},data/ground_truth/{defect}/{i}.png"
            table.append(f"data/{folder}/{i}.png,{split},{truth},{items.get(f'{folder}/{i}', '')}")
    (home / "data/ground_truth/good").rmdir()
    (home / "data.csv").write_text("\n".join(table))
    lit_ad(
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"),
        *("--model.weights", resnet_file, "--model.view.image_size", 32),
        *("--data.source", "Table", "--data.source.root", home, "--data.source.table", "data.csv"),
        *("--data.batch_size", 2, "--data.loading.eval_batch_size", 1),  # convolutions round by the batch they are in
        *("--trainer.max_epochs", 1, "--trainer.default_root_dir", home / "one"),
    )
    return home / "one"


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_metrics_of_many_processes_equal_those_of_one(run: Path, tmp_path: Path, processes: int) -> None:
    arguments = [
        *("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", processes, "--trainer.default_root_dir", tmp_path),
    ]
    lit_ad("test", *arguments)
    one, many = (json.loads((home / "metrics.json").read_text()) for home in (run, tmp_path))
    assert set(one["rows"]) == {"pooled", "data/dot", "data/line"}
    assert 0 <= one["rows"]["pooled"]["sample_auroc"] <= 1
    del one["checkpoint"], many["checkpoint"]  # of one it lies in its run
    assert many == one
    pictures = [sorted(p.relative_to(home) for p in home.glob("heatmaps/**/*.jpg")) for home in (run, tmp_path)]
    assert len(pictures[0]) == COUNT
    assert pictures[0] == pictures[1]
    assert (tmp_path / "thumbnails.zip").read_bytes() == (run / "thumbnails.zip").read_bytes()
    assert (tmp_path / "report.html").is_file() and not list(tmp_path.glob(".thumbnails*"))


def test_predictions_of_many_processes_are_in_one_table(run: Path, tmp_path: Path) -> None:
    tables = []
    for processes in (1, 3):
        lit_ad(
            *("predict", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"),
            *("--data.predict_path", run.parent / "data/test", "--trainer.accelerator", "cpu"),
            *("--trainer.devices", processes, "--trainer.default_root_dir", tmp_path / str(processes)),
        )
        with (tmp_path / str(processes) / "predictions/scores.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == COUNT
    assert tables[0] == tables[1]


FEW_IMAGES = """
import json
import shutil
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.evaluation import Evaluation, Predictions
from lit_ad.image.view import View
from lit_ad.methods import ReverseDistillation
from lit_ad.training import Calibration

home = Path(sys.argv[1])
for processes in (3, 2, 1):  # the last, since a process that has computed gradients cannot be forked
    run = home / str(processes)
    best = ModelCheckpoint(run / "checkpoints", filename="best", monitor="val/loss")
    model = ReverseDistillation("resnet10t", (1, 2, 3), sys.argv[2], view=View(64))
    good = home / "data/test/good"
    data = AnomalyDataModule(MVTec(home / "data"), model.view, loading=Loading(num_workers=0), predict_path=good)
    quiet = dict(logger=False, enable_model_summary=False)
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp_fork" if processes > 1 else "auto", precision="64-true",
        max_epochs=1, default_root_dir=run, callbacks=[Calibration(), Evaluation(sinks=[Predictions()]), best], **quiet
    )
    if processes > 1:
        trainer.fit(model, data)
        assert (run / "checkpoints/best.ckpt").is_file()
    if processes == 3:
        shutil.copy(run / "checkpoints/best.ckpt", home)
    checkpoint = home / "best.ckpt"
    trainer.validate(model, data, ckpt_path=checkpoint, weights_only=True)
    loss = float(trainer.callback_metrics["val/loss"])
    trainer.test(model, data, ckpt_path=checkpoint, weights_only=True)
    trainer.predict(model, data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)
    (run / "loss.json").write_text(json.dumps(loss))
"""


def test_processes_without_images_do_not_hang(resnet_file: Path, tmp_path: Path) -> None:
    """Validation, test and predict have one image each. Reverse Distillation has buffers that DDP broadcasts."""
    generator = np.random.default_rng(0)
    for name in ("train/good/0", "train/good/1", "test/good/0"):
        (file := tmp_path / "data" / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    (tmp_path / "few.py").write_text(FEW_IMAGES)
    launch([[sys.executable, str(tmp_path / "few.py"), str(tmp_path), str(resnet_file)]], {})
    files = ("loss.json", "metrics.json", "scores.csv", "predictions/scores.csv")
    one, two, three = ([(tmp_path / n / file).read_text() for file in files] for n in "123")
    assert one == two == three
    assert json.loads(one[0]) > 0 and [table.count("\n") for table in one[2:]] == [2, 2]


# Each has what no other has: cached features, statistics of the data, corrupted images, a loss over all processes.
FEW = ["L2BT", "STFPM", "DeSTSeg", "EfficientAD", "Distillation"]
GROUPS = [pytest.param(FEW, id="few"), pytest.param(sorted({*METHODS} - {*FEW}), id="rest", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=GROUPS)
def trained(
    request: pytest.FixtureRequest,
    images: Path,
    small_models: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The runs of methods and of a distillation: by one process with batches of 4, and by two nodes of one process each
    with batches of 2, which torchrun connects."""
    home = tmp_path_factory.mktemp("trained")
    root = shutil.copytree(images, home / "data")
    shutil.copy(root / "train/good/000.png", root / "train/good/012.png")  # 8 to train on, and an odd 5 to validate
    distillation = {
        **{"backbone": "resnet10t", "weights": small_models["STFPM"]["init_args"]["weights"], "width": 1 / 32},
        **{"grey": 0.0, "view": {"image_size": 64}},
    }
    models = {**small_models, "Distillation": {"class_path": DISTILLATION, "init_args": distillation}}
    for method in request.param:
        model = models[method]
        source = ("MVTec", root) if method in METHODS else ("Photographs", root / "train")
        settings = {
            "model": model,
            "data": {
                "source": {"class_path": source[0], "init_args": {"root": str(source[1])}},
                **{"loading": {"eval_batch_size": 1}, "split": {"val_fraction": 0.385}},
                "corrupt": "Perlin" if method in ("DeSTSeg", "FoundAD") else None,
            },
            # Training multiplies the rounding of sums, so it is done in float64: then only an error makes a difference.
            "trainer": {
                **{"max_epochs": 2, "log_every_n_steps": 1, "accelerator": "cpu", "precision": "64-true"},
            },
        }
        if method in METHODS:
            settings["cache"] = {"enabled": method == "L2BT", "directory": str(home / "cache")}
        (home / f"{method}.yaml").write_text(yaml.safe_dump(settings))
    script = """
        import sys
        from lit_ad.commands.main import main

        processes, *methods = sys.argv[1:]
        for method in methods:
            command = "distill" if method == "Distillation" else "fit"
            sys.argv = ["lit-ad", command, "--config", f"{method}.yaml", "--data.batch_size", str(4 // int(processes))]
            sys.argv += ["--trainer.num_nodes", processes, "--trainer.devices", "1"]
            sys.argv += ["--trainer.default_root_dir", f"{processes}/{method}"]
            sys.argv += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", f"{processes}/{method}"]
            main()
    """
    (home / "train.py").write_text(textwrap.dedent(script))
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{find_free_port()}", "--local-addr", "localhost"),
        *("--max-restarts", 0),
    ]
    for processes, command in ((1, [sys.executable]), (2, torchrun)):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        whole = [*map(str, command), "train.py", str(processes), *request.param]
        agents = [
            subprocess.Popen(whole, cwd=home, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)
            for log in [home / f"{processes}.{agent}.log" for agent in range(processes)]
        ]
        try:
            for agent, process in enumerate(agents):
                assert process.wait(1500) == 0, (home / f"{processes}.{agent}.log").read_text()[-5000:]
        finally:
            for process in agents:
                process.kill()
    return home


def curve(run: Path, name: str) -> list[float]:
    """Return the values that a run logged under a name."""
    with next(run.glob("lightning_logs/*/metrics.csv")).open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_training_by_two_processes_equals_training_by_one(trained: Path) -> None:
    """Losses and metrics of methods are equal, and so is the network that a distillation writes."""
    for one in sorted((trained / "1").iterdir()):
        two = trained / "2" / one.name
        for name, count in (("train/loss_step", 4), ("train/loss_epoch", 2), ("val/loss", 2)):
            assert len(curve(one, name)) == count, one.name
            assert curve(two, name) == pytest.approx(curve(one, name), rel=1e-6), (one.name, name)
        if one.name == "Distillation":
            first, second = (load_file(run / "pdn_small.safetensors") for run in (one, two))
            for name, tensor in first.items():
                torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-8)
        else:
            rows, others = (json.loads((run / "metrics.json").read_text())["rows"]["pooled"] for run in (one, two))
            assert others == pytest.approx(rows, abs=1e-6, nan_ok=True), one.name


def test_two_nodes_leave_one_run_and_one_cache(trained: Path) -> None:
    runs = sorted(path.name for path in (trained / "1").iterdir())
    assert runs == sorted(path.name for path in (trained / "2").iterdir())
    for run in runs:
        files = [sorted(path.name for path in (trained / n / run).rglob("*") if path.is_file()) for n in "12"]
        assert files[0] == files[1]
    if "L2BT" in runs:  # whose features are cached, of training and of validation
        assert len([path for path in (trained / "cache").iterdir() if path.is_dir()]) == 2


def test_logged_values_are_not_reduced_when_they_are_first_read() -> None:
    """The progress bar reads them on the first process only."""
    for path in (ROOT / "lit_ad").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.keyword) and node.arg == "sync_dist"), f"{path}: use SharedMean"
