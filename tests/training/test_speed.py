"""The logs of a training hold its speed."""

import csv
from pathlib import Path
from typing import Any

import pytest

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.training.speed import TrainingSpeed


def test_every_epoch_logs_its_speed(images: Path, small_models: dict[str, Any], tmp_path: Path) -> None:
    import lightning as L
    from lightning.pytorch.loggers import CSVLogger

    model = STFPM(**{**small_models["STFPM"]["init_args"], "view": View(64)})
    logger = CSVLogger(tmp_path)
    off: dict[str, Any] = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        default_root_dir=tmp_path, max_epochs=2, logger=logger, callbacks=[TrainingSpeed()], accelerator="cpu", **off
    )
    trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, batch_size=4, loading=Loading(num_workers=0)))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/images_per_second"]]
    assert len(logged) == 2
    for row in logged:
        assert float(row["train/images_per_second"]) > 0 and 0 < float(row["system/cpu_cores"]) < 1000
        assert float(row["train/lr"]) == pytest.approx(0.05) and float(row["system/peak_memory_gib"]) > 0.1
