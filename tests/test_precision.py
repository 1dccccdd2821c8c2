"""bf16-mixed: every method trains in it, and its checkpoint measures nearly the same in float32."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_ad.methods import __all__ as METHODS
from lit_ad.run.main import main


@pytest.mark.parametrize("method", METHODS)
def test_bf16_is_nearly_float32(
    method: str,
    images: Path,
    small_models: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {
        "model": small_models[method],
        "data": {
            "source": {"class_path": "MVTec", "init_args": {"root": str(images)}},
            "batch_size": 4,
        },
        "cache": {"enabled": True, "directory": str(tmp_path / "cache")},
        "trainer": {"max_epochs": 4, "precision": "bf16-mixed", "enable_progress_bar": False, "logger": False},
        "heatmaps": {"enabled": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = []
    again = ["--ckpt_path", f"{tmp_path}/run/checkpoints/best.ckpt", "--trainer.precision", "32-true"]
    for command, more in (("fit", []), ("test", again)):
        arguments = [command, "--config", f"{tmp_path}/config.yaml", "--trainer.default_root_dir", f"{tmp_path}/run"]
        monkeypatch.setattr(sys, "argv", ["lit-ad", *arguments, *more])
        main()
        rows.append(json.loads((tmp_path / "run/metrics.json").read_text())["rows"]["pooled"])
    assert rows[1]["pixel_auroc"] == pytest.approx(rows[0]["pixel_auroc"], abs=0.01)
    assert rows[1]["image_auroc"] == pytest.approx(rows[0]["image_auroc"], abs=0.1)  # 2 of 20 pairs of images
    assert (rows[0] == rows[1]) == (method == "MKD")  # whose gradients are always taken in float32
