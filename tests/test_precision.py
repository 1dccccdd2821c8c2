"""In bf16-mixed every method trains, and its checkpoint has nearly the same metrics in float32. In bf16-true scores and
thresholds are not rounded."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml

from lit_ad.batch import Batch
from lit_ad.commands.main import main
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.detector.scoring import Judgement
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from lit_ad.training import Calibration


def fit_and_test_again(
    model: dict[str, Any], precision: str, accelerator: str, images: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, float]]:
    """Return the pooled metrics of a fit in a precision, and of its checkpoint tested in float32."""
    settings = {
        "model": model,
        "data": {
            "source": {"class_path": "MVTec", "init_args": {"root": str(images)}},
            "batch_size": 4,
            "corrupt": "Perlin" if model["class_path"].endswith(("DeSTSeg", "FoundAD")) else None,
        },
        "cache": {"enabled": True, "directory": str(home / "cache")},
        "trainer": {
            "max_epochs": 4,
            "precision": precision,
            "accelerator": accelerator,
            "devices": 1,
            "enable_progress_bar": False,
            "logger": False,
        },
        "heatmaps": {"enabled": False},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = []
    again = ["--ckpt_path", f"{home}/run/checkpoints/best.ckpt", "--trainer.precision", "32-true"]
    for command, more, metrics in (("fit", [], "metrics.json"), ("test", again, "test/metrics.json")):
        arguments = [command, "--config", f"{home}/config.yaml", "--trainer.default_root_dir", f"{home}/run"]
        monkeypatch.setattr(sys, "argv", ["lit-ad", *arguments, *more])
        main()
        rows.append(json.loads((home / "run" / metrics).read_text())["rows"]["pooled"])
    return rows


@pytest.mark.parametrize("method", METHODS)
def test_bf16_is_nearly_float32(
    method: str,
    images: Path,
    small_models: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = fit_and_test_again(small_models[method], "bf16-mixed", "cpu", images, tmp_path, monkeypatch)
    assert rows[1]["pixel_auroc"] == pytest.approx(rows[0]["pixel_auroc"], abs=0.01)
    # 2 of 20 pairs of images; DeSTSeg's segmentation network has had few steps, and processors round differently
    pairs = 3 if method == "DeSTSeg" else 2
    assert rows[1]["image_auroc"] == pytest.approx(rows[0]["image_auroc"], abs=pairs / 20 + 1e-6)
    assert (rows[0] == rows[1]) == (method == "MKD")  # whose gradients are always taken in float32


class Keep(L.Callback):
    """Keeps the scores and the maps' maxima of the held-out images in validation."""

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.scores: list[float] = []
        self.maxima: list[float] = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        judgements: list[Judgement] = outputs
        for judgement, size in zip(judgements, batch.sizes, strict=True):
            assert judgement.network_map is not None and judgement.network_map.dtype == np.float32
            self.scores.append(judgement.score)
            self.maxima.append(float(judgement.original_map(size).max()))


def test_the_decision_of_bf16_true_matches_its_scores(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """Weights and buffers have half precision there. Threshold and colours do not."""
    model = STFPM("resnet10t", (1, 2), str(resnet_file), View(64), lr=0.05)
    data = AnomalyDataModule(MVTec(images), model.view, batch_size=4, loading=Loading(num_workers=0))
    keep = Keep()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-true",
        max_epochs=1,
        default_root_dir=tmp_path,
        callbacks=[keep, Calibration(0.4)],
        **quiet,
    )
    trainer.fit(model, data)
    assert next(model.student.parameters()).dtype == torch.bfloat16
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    for decision in (model.decision, Method.load_from_checkpoint(tmp_path / "half.ckpt").decision):
        assert decision is not None
        assert decision.scores["stripes"].tolist() == sorted(keep.scores)
        assert decision.maxima["stripes"].tolist() == sorted(keep.maxima)
        assert decision.threshold() == max(keep.scores) and decision.pixel_threshold() == max(keep.maxima)
        assert float(torch.tensor(decision.threshold()).bfloat16()) != decision.threshold()
