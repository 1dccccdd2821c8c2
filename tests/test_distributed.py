"""Several processes through the CLI: the same numbers as one, and one set of files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
COUNT = 7  # neither 2 nor 3 divides it


def lit_ad(*arguments: object) -> None:
    command = [sys.executable, "-m", "lit_ad", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, resnet_file: Path) -> Path:
    """A run trained by one process, and its test images: three good ones, two defect types."""
    home = tmp_path_factory.mktemp("distributed")
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
    (home / "data/ground_truth/good").rmdir()
    lit_ad(
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"),
        *("--model.weights", resnet_file, "--data.source.root", home / "data", "--data.image_size", 32),
        *("--data.batch_size", 2, "--data.eval_batch_size", 1),  # convolutions round by the batch they are in
        *("--trainer.max_epochs", 1, "--trainer.default_root_dir", home / "one"),
    )
    return home / "one"


@pytest.mark.parametrize("processes", [2, 3])
def test_metrics_of_many_processes_are_those_of_one(run: Path, tmp_path: Path, processes: int) -> None:
    arguments = [
        *("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", processes, "--trainer.default_root_dir", tmp_path),
    ]
    lit_ad("test", *arguments)
    one, many = (json.loads((home / "metrics.json").read_text()) for home in (run, tmp_path))
    assert set(one["rows"]) == {"overall", "dot", "line"}
    assert many == one
    pictures = [sorted(p.relative_to(home) for p in home.glob("heatmaps/**/*.png")) for home in (run, tmp_path)]
    assert len(pictures[0]) == COUNT
    assert pictures[0] == pictures[1]


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
