"""The protocol runner: which runs it starts, what it does not do again, and its table."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.run.protocol import main, markdown

ROOT = Path(__file__).parents[2]
AUROC = {"cat": 0.9, "dog": 0.8, "ship": 0.4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for i, name in enumerate(AUROC):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for j in range(count):
                pixels = generator.normal(60 + 60 * i, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}{j}.png")
    return tmp_path / "pets"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "method.yaml").write_text("model: {class_path: lit_ad.methods.Transformaly}\n")
    return tmp_path / "method.yaml"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; each finishes at once."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command[4:])
        home = Path(command[command.index("--trainer.default_root_dir") + 1])
        row = {"image_auroc": AUROC[home.name], "image_auroc_teacher": AUROC[home.name] / 2, "pixel_auroc": None}
        home.mkdir(exist_ok=True)
        (home / "metrics.json").write_text(json.dumps({"rows": {"pooled": row}}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return commands


@pytest.fixture
def start(root: Path, config: Path, tmp_path: Path) -> Callable[..., None]:
    def start(*more: str) -> None:
        protocol = tmp_path / "protocol.yaml"
        protocol.write_text(f"run_config: {config}\nroot: {root}\noutput: {tmp_path / 'out'}\n")
        main(["--config", str(protocol), *more])

    return start


def source(command: list[str]) -> dict[str, object]:
    return json.loads(command[command.index("--data.source") + 1])["init_args"]


def test_every_class_in_turn_and_their_table(
    start: Callable[..., None], runs: list[list[str]], root: Path, tmp_path: Path
) -> None:
    start("--", "--trainer.max_epochs", "1")
    assert [source(command) for command in runs] == [
        {"root": str(root), "normal": [name], "anomalous": None} for name in AUROC
    ]
    assert all(command[-4:-2] == ["--trainer.max_epochs", "1"] for command in runs)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: row["image_auroc"] for name, row in results["classes"].items()} == AUROC
    assert results["mean"]["image_auroc"] == pytest.approx(0.7)
    assert results["sd"]["image_auroc"] == pytest.approx(statistics.stdev(AUROC.values()))
    assert results["missing"] == []
    lines = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert lines[0] == "| class | image_auroc | image_auroc_teacher |"
    assert lines[2:] == [
        "| cat | 0.9000 | 0.4500 |",
        "| dog | 0.8000 | 0.4000 |",
        "| ship | 0.4000 | 0.2000 |",
        "| **mean** | 0.7000 | 0.3500 |",
        "| **sd** | 0.2646 | 0.1323 |",
    ]
    start("--", "--trainer.max_epochs", "1")
    assert len(runs) == 3  # nothing is done again


def test_classes_may_be_called_as_the_last_rows_are() -> None:
    rows = {"mean": {"image_auroc": 0.5}, "sd": {"image_auroc": 0.75}}
    lines = markdown(rows, {"image_auroc": 0.625}, {"image_auroc": 0.25}, []).splitlines()
    assert lines[2:] == ["| mean | 0.5000 |", "| sd | 0.7500 |", "| **mean** | 0.6250 |", "| **sd** | 0.2500 |"]


def test_multimodal_and_some_classes(start: Callable[..., None], runs: list[list[str]], tmp_path: Path) -> None:
    start("--mode", "multimodal", "--only", "[ship]")
    assert [source(command)["anomalous"] for command in runs] == [["ship"]]
    assert [source(command)["normal"] for command in runs] == [None]  # whatever the run's config says
    assert "sd" not in (tmp_path / "out" / "results.md").read_text()


def test_jobs_of_an_array_share_the_table(start: Callable[..., None], runs: list[list[str]], tmp_path: Path) -> None:
    start("--index", "2")
    assert (tmp_path / "out" / "results.md").read_text().endswith("Not finished: cat, dog.\n")
    start("--index", "0")
    assert [source(command)["normal"] for command in runs] == [["ship"], ["cat"]]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (list(results["classes"]), results["missing"]) == (["cat", "ship"], ["dog"])
    with pytest.raises(UserError, match="index must lie in 0 to 2"):
        start("--index", "3")


def test_a_half_trained_class_goes_on(start: Callable[..., None], runs: list[list[str]], tmp_path: Path) -> None:
    last = tmp_path / "out" / "dog" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    start()
    assert [command[-1] if "--ckpt_path" in command else None for command in runs] == [None, str(last), None]


def test_a_failed_run_ends_it(start: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=7))
    with pytest.raises(UserError, match=r"out/cat did not finish \(exit code 7"):
        start()


def test_mistakes(start: Callable[..., None], runs: list[list[str]], config: Path) -> None:
    with pytest.raises(UserError, match=r"no class cow in .*there are cat, dog, ship"):
        start("--only", "[cow]")
    start()
    with pytest.raises(UserError, match=r"results of another protocol \(other mode\)"):
        start("--mode", "multimodal")
    config.write_text("# a comment\n" + config.read_text())
    start()
    config.write_text("model: {class_path: lit_ad.methods.STFPM}\n")
    with pytest.raises(UserError, match="other run_config"):
        start()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("protocol*.yaml")), ids=lambda path: path.stem)
def test_configs(
    file: Path, runs: list[list[str]], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"lit-ad protocol --config configs/{file.name}" in file.read_text()
    monkeypatch.chdir(ROOT)
    main(["--config", str(file), "--root", str(root), "--output", str(tmp_path / "out")])
    assert len(runs) == 3
    assert (ROOT / runs[0][runs[0].index("--config") + 1]).is_file()


@pytest.mark.slow
def test_killed_and_resumed(root: Path, vit_file: Path, tmp_path: Path) -> None:
    """For real: stopped in the second class, after its first epochs; the same command ends what was begun."""
    (tmp_path / "method.yaml").write_text(
        json.dumps(
            {
                "model": {
                    "class_path": "lit_ad.methods.Transformaly",
                    "init_args": {
                        **{"backbone": "deit_tiny_patch16_224", "weights": str(vit_file)},
                        "view": {"image_size": 32},
                    },
                },
                "data": {"batch_size": 4, "num_workers": 0},
                "heatmaps": {"enabled": False},
                "trainer": {"max_epochs": 30, "accelerator": "cpu", "logger": False, "enable_progress_bar": False},
            }
        )
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lit_ad", "protocol", "--run_config", str(tmp_path / "method.yaml")]
    command += ["--root", str(root), "--output", str(out), "--only", "[cat,dog]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment)
    last = out / "dog" / "checkpoints" / "last.ckpt"
    while not last.is_file():
        assert first.poll() is None
        time.sleep(0.02)
    first.terminate()
    assert first.wait() == 143
    assert not (out / "dog" / "metrics.json").is_file()
    reached = torch.load(last, weights_only=True)["epoch"]
    finished = (out / "cat" / "metrics.json").stat().st_mtime_ns
    assert json.loads((out / "results.json").read_text())["missing"] == ["dog"]

    subprocess.run(command, check=True, env=environment)
    assert (out / "cat" / "metrics.json").stat().st_mtime_ns == finished
    assert reached < 29 == torch.load(last, weights_only=True)["epoch"]
    results = json.loads((out / "results.json").read_text())
    assert results["missing"] == []
    assert {"image_auroc", "image_auroc_teacher", "image_auroc_blocks", "image_auroc_both"} <= set(results["mean"])
