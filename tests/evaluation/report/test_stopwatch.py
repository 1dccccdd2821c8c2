"""A stopwatch measures time and memory of all processes together, from the moment it is made."""

import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.evaluation.report.record import Record
from lit_ad.evaluation.report.stopwatch import Stopwatch, TrainingRecord, device_name
from lit_ad.image.view import View
from tests.processes import run_processes


def test_time_counts_from_the_beginning() -> None:
    watch, before = Stopwatch(1, ""), time.perf_counter()
    time.sleep(0.02)
    first = watch.read(3)
    second = watch.read(5, resumed=True)
    assert 0.02 <= first.seconds <= second.seconds <= time.perf_counter() - before + 0.01
    assert (first.images, second.images, first.resumed, second.resumed) == (3, 5, False, True)
    assert first.memory is not None and 2**20 < first.memory < 2**40


def counting(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    took = Stopwatch(2, f"GPU {rank}").read(10 + rank)
    assert took.images == 21
    assert "GPU 0" in str(took.environment) and "GPU 1" in str(took.environment)
    dist.destroy_process_group()


def test_images_and_devices_are_those_of_all_processes(tmp_path: Path) -> None:
    run_processes(counting, tmp_path / "store")


def test_a_training_is_recorded_unless_it_is_a_trial(
    images: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    for trial in (True, False):
        data = AnomalyDataModule(MVTec(images), View(32), batch_size=4)
        trainer = quiet_trainer(tmp_path, TrainingRecord(), fast_dev_run=trial, max_epochs=2)
        trainer.fit(brightness(), datamodule=data)
        record = Record.load(tmp_path)
        assert (record is None) == trial
    assert record is not None and record.training is not None and record.test is None
    assert record.method == "Brightness"
    assert record.training.images == 2 * len(data.splits.train)
    assert device_name(trainer) == ""  # a CPU has none
