"""The commands that users type, on small images with a small random teacher."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lit_ad.commands.main import main
from lit_ad.detector.decision import Decision

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _use_one_thread() -> Iterator[None]:
    """Use one thread, which adds in a fixed order, so that the numbers of two runs are equal."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lit_ad(*arguments: object, cwd: Path) -> tuple[str, str]:
    """Run a command in this process. Return its stdout, and its message if it ends in an error."""
    out, error = io.StringIO(), ""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        patch.chdir(cwd)
        try:
            main()
        except SystemExit as stop:
            error = f"{stop.code or ''}"
    return out.getvalue(), error


def fit_arguments(images: Path, weights: Path, run: Path, epochs: int = 3) -> list[object]:
    return [
        *("fit", "--config", ROOT / "configs/stfpm.yaml"),
        *("--model.backbone", "resnet10t", "--model.weights", weights, "--data.source.root", images),
        *("--model.view.image_size", 64, "--data.batch_size", 4, "--trainer.max_epochs", epochs),
        *("--trainer.default_root_dir", run, "--trainer.enable_progress_bar", "false"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("accelerator", "warp", "Lightning refuses a key of trainer: You selected an invalid accelerator name"),
        (
            "devices",
            -3,
            "Lightning refuses a key of trainer: `devices` selected with `CPUAccelerator` should be an int > 0",
        ),
    ],
)
def test_a_device_that_is_not_there(
    key: str, value: object, message: str, images: Path, resnet_file: Path, tmp_path: Path
) -> None:
    arguments = [*fit_arguments(images, resnet_file, tmp_path / "run"), "--trainer.accelerator", "cpu"]
    error = lit_ad(*arguments, f"--trainer.{key}", value, cwd=tmp_path)[1]
    assert error.startswith(f"lit-ad: {message}") and len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def run(images: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, trained with relative paths."""
    home = tmp_path_factory.mktemp("home")
    data, weights = (Path(os.path.relpath(path, home)) for path in (images, resnet_file))
    out, error = lit_ad(*fit_arguments(data, weights, Path("run")), cwd=home)
    assert not error
    assert "This run is in run: config.yaml" in out  # below the working directory: from there
    return home / "run"


def test_fit_leaves_a_complete_run(run: Path) -> None:
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json", "report.html"):
        assert (run / name).is_file(), name
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    assert set(rows) == {"pooled", "stripes/square"}
    for name in ("image_auroc", "image_f1_max", "pixel_auroc", "aupro_30"):  # of a random teacher: any value
        assert 0 < rows["pooled"][name] <= 1
        assert rows["stripes/square"][name] == rows["pooled"][name]  # the only defect type
    assert {path.relative_to(run / "heatmaps").parts[1] for path in (run / "heatmaps").rglob("*.jpg")} == {
        "good",
        "square",
    }
    assert len(list((run / "heatmaps").rglob("*.jpg"))) == 9
    assert not list(run.rglob("*.tmp"))


def test_best_has_the_lowest_loss(run: Path) -> None:
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    (state,) = (state for name, state in last["callbacks"].items() if name.startswith("BestCheckpoint"))
    assert float(state["best_model_score"]) <= float(state["current_score"])  # where a run improves, not the first's
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == last["epoch"] == 2


def test_the_threshold_comes_from_the_held_out_images(run: Path) -> None:
    decision = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["lit_ad"]["decision"]
    (scores,) = decision["scores"].values()
    assert len(scores) == 2  # of 12 training images, a fifth; too few for the rate: the highest is the threshold
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["threshold"] == max(scores)
    assert metrics["pixel_threshold"] == max(decision["maxima"]["stripes"])
    low, high = Decision.from_dict(decision).colour_range() or (0, 0)
    assert low < metrics["pixel_threshold"] == pytest.approx((low + high) / 2)


def test_test_from_elsewhere_gives_the_same_metrics(run: Path, tmp_path: Path) -> None:
    before, home = json.loads((run / "metrics.json").read_text()), tmp_path / "again"
    config, checkpoint = run / "config.yaml", run / "checkpoints/best.ckpt"
    long = ("--ckpt_path", checkpoint, "--config", config, "--trainer.default_root_dir", home)
    assert not lit_ad("test", *long, cwd=tmp_path)[1]
    after = json.loads((home / "metrics.json").read_text())
    assert after == {**before, "checkpoint": str(checkpoint)}
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_test_is_written_beside_an_earlier_one(run: Path, tmp_path: Path) -> None:
    """With any settings: the numbers of the shipped detector stay."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    out, error = lit_ad("test", copy, "--decision.false_alarm", 0.7, cwd=tmp_path)
    assert not error and f"are in {copy}/test; the earlier test stays" in out
    assert f"Taken from {copy}: config.yaml and checkpoints/best.ckpt" in out
    assert not lit_ad("test", copy, cwd=tmp_path)[1]
    assert {path: path.read_bytes() for path in before} == before
    shipped, other, again = (json.loads((copy / name / "metrics.json").read_text()) for name in ("", "test", "test-2"))
    assert (shipped["false_alarm"], other["false_alarm"], again["false_alarm"]) == (0.01, 0.7, 0.01)
    assert other["threshold"] < shipped["threshold"] == again["threshold"] and again["rows"] == shipped["rows"]
    assert yaml.safe_load((copy / "test/config.yaml").read_text())["decision"]["false_alarm"] == 0.7
    assert not lit_ad("test", copy, "--overwrite", "true", "--decision.false_alarm", 0.7, cwd=tmp_path)[1]
    assert json.loads((copy / "metrics.json").read_text())["false_alarm"] == 0.7
    assert not (copy / "test-3").exists()


def test_a_check_before_training_changes_no_number(run: Path, images: Path, resnet_file: Path, tmp_path: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["num_sanity_val_steps"] == 0
    checked = [*fit_arguments(images, resnet_file, tmp_path / "run"), "--trainer.num_sanity_val_steps", 2]
    _, error = lit_ad(*checked, cwd=tmp_path)
    assert not error
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["trainer"]["num_sanity_val_steps"] == 2
    rows = [json.loads((home / "metrics.json").read_text())["rows"] for home in (run, tmp_path / "run")]
    assert rows[0] == rows[1]


def test_typed_keys_override_the_checkpoints(run: Path, tmp_path: Path) -> None:
    _, error = lit_ad(
        *("test", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"),
        *("--model.weights", "nowhere.pt"),
        cwd=tmp_path,
    )
    assert error.startswith("lit-ad: there is no weights file nowhere.pt")


SAVED = {"__class_fullname__": "Normalize", "p": 1.0}  # which no training takes: that it was read is known by that


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("saved.json", "data.augment must keep images uint8"),
        ("none.json", "none.json cannot be read as a file of albumentations' A.save"),
        ("[{class_path: albumentations.RandomCropp}]", "module 'albumentations' has no attribute 'RandomCropp'"),
        (str([SAVED]), "data.augment has the content of a file that albumentations' A.save wrote: give the path"),
        (str({"transform": SAVED}), "data.augment has the content of a file that albumentations' A.save wrote"),
    ],
)
def test_augmentations_are_a_list_or_a_file(
    augment: str, message: str, images: Path, resnet_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "saved.json").write_text(json.dumps({"__version__": "2.0.8", "transform": SAVED}), encoding="utf-8")
    _, error = lit_ad(*fit_arguments(images, resnet_file, tmp_path / "run"), "--data.augment", augment, cwd=tmp_path)
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_without_a_checkpoint_nothing_is_measured(run: Path, tmp_path: Path, command: str) -> None:
    _, error = lit_ad(command, "--config", run / "config.yaml", cwd=tmp_path)
    assert error.startswith(f"lit-ad: {command} needs a trained model: lit-ad {command} RUN")


def test_tilde_in_every_key(images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In YAML, and after an equals sign, where no shell expands it."""
    home, here = tmp_path / "home", tmp_path / "here"
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, here, here / "deep"):
        folder.mkdir()
    for name, target in (("data", images), ("w.pt", resnet_file), ("stfpm.yaml", ROOT / "configs/stfpm.yaml")):
        (home / name).symlink_to(target)
    loggers = "[{class_path: CSVLogger, init_args: {save_dir: ~/logs}}]"
    command, flag, _, *more = fit_arguments(Path("~/data"), Path("~/w.pt"), Path("~/run"), epochs=2)
    _, error = lit_ad(
        *(
            command,
            flag,
            "~/stfpm.yaml",
            *more,
            "--checkpoint.dirpath=~/ck",
            "--cache.directory=~/cache",
            "--cache.enabled=true",
        ),
        *(f"--trainer.logger={loggers}", "--data.unrelated=~/data", "--test_after_fit=false"),
        cwd=here,
    )
    assert not error
    assert (home / "run/config.yaml").is_file() and list((home / "logs").rglob("metrics.csv"))
    assert {path.name for path in (home / "ck").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list((home / "cache").glob("*/about.json"))
    config = yaml.safe_load((home / "run/config.yaml").read_text())
    assert config["model"]["init_args"]["weights"] == f"{home}/w.pt"
    assert config["data"]["source"]["init_args"]["root"] == f"{home}/data"

    _, error = lit_ad(
        *("predict", "--config=~/run/config.yaml", "--ckpt_path=~/ck/best.ckpt", "--trainer.logger=false"),
        *("--data.predict_path=~/data/test/../test", "--predictions.output=../p", "--trainer.default_root_dir=../r"),
        cwd=here / "deep",
    )
    assert not error
    assert (here / "p/scores.csv").is_file()
    assert not list(tmp_path.rglob("~")) and sorted(path.name for path in here.iterdir()) == ["deep", "p"]


def test_predict_from_elsewhere(run: Path, images: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    (new / "deeper").mkdir(parents=True)
    for target, source in (("a.png", "good/000.png"), ("b.png", "square/001.png"), ("deeper/a.png", "square/000.png")):
        (new / target).write_bytes((images / "test" / source).read_bytes())
    arguments = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt")
    lit_ad("predict", *arguments, "--data.predict_path", "new", cwd=tmp_path)
    with (run / "predictions/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a.png", "b.png", "deeper/a.png"]
    (scores,) = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["lit_ad"]["decision"]["scores"].values()
    for row in rows:
        assert row["verdict"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "nominal")
    for name in ("a", "b", "deeper/a"):
        pixels = np.asarray(Image.open(run / f"predictions/maps/{name}.tiff"))
        assert pixels.dtype == np.float32
        assert pixels.shape == (64, 72)
        assert (run / f"predictions/heatmaps/{name}.jpg").is_file()
        held = [score for score in scores if score >= float(row["score"])]
        assert float(row["p_value"]) == pytest.approx((1 + len(held)) / (1 + len(scores)))
    assert float(rows[0]["threshold"]) == pytest.approx(max(scores), rel=1e-5)


def test_predict_needs_no_training_images(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes((images / "test/good/000.png").read_bytes())
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["source"]["init_args"]["root"] = "/nowhere"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lit_ad(
        *("predict", "--config", "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"),
        *("--data.predict_path", "one.png", "--trainer.default_root_dir", "out"),
        cwd=tmp_path,
    )
    assert len((tmp_path / "out/predictions/scores.csv").read_text().splitlines()) == 2


def test_a_killed_fit_resumes_to_the_uninterrupted_runs_metrics(
    run: Path, images: Path, resnet_file: Path, tmp_path: Path
) -> None:
    arguments = fit_arguments(images, resnet_file, tmp_path / "killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lit_ad", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed/checkpoints/last.ckpt"
    deadline = time.monotonic() + 600
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(last, weights_only=True)["epoch"] < 3
    lit_ad("fit", "--config", tmp_path / "killed/config.yaml", "--ckpt_path", last, cwd=tmp_path)
    whole, resumed = (json.loads((r / "metrics.json").read_text()) for r in (run, tmp_path / "killed"))
    assert resumed == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data.source.root", "/nowhere"], "/nowhere"),
        (["--model.backbone", "resnet81"], "no model 'resnet81'"),
        (["--model.taps", "[9]"], "taps"),
        (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "strategy ddp_spawn copies this process"),
        (["--checkpoint.dirpath", "/proc/x"], "cannot write /proc/x: No such file or directory; give another check"),
        (["--cache.enabled", "true", "--cache.directory", "/proc/x"], "cannot write /proc/x: No such file or dir"),
        (["--data.source=Demo", "--data.source.root", "/proc/x"], "; give another data.source.root"),
        (["--model.view.image_size", "0"], "image_size"),
        (["--decision.false_alarm", "2"], "decision.false_alarm"),
        (
            ["--dashboards", "[wandb]", "--trainer.logger", "false"],
            "dashboards and trainer.logger both set the loggers",
        ),
    ],
)
def test_bad_settings_end_in_one_clear_message(
    images: Path, resnet_file: Path, tmp_path: Path, change: list[str], message: str
) -> None:
    _, error = lit_ad(*fit_arguments(images, resnet_file, tmp_path / "run"), *change, cwd=tmp_path)
    assert error.startswith("lit-ad: ")
    assert message in error
    assert not (tmp_path / "run/config.yaml").exists()
