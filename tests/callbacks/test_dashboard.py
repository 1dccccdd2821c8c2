"""What wandb (offline) and TensorBoard hold after a run, read back with their own readers."""

import json
import struct
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from lit_ad.__main__ import main

ROOT = Path(__file__).parents[2]


def records(file: Path) -> list[wandb_internal_pb2.Record]:
    """Everything in an offline wandb run: protobuf records in LevelDB's log format, after a header of 7 bytes."""
    data, position, parts, found = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768  # of this block; what cannot hold a header is padding
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def test_both_dashboards_hold_the_run(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"offline": True, "save_dir": "logs"}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "logs"}},
    ]
    (tmp_path / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--config", tmp_path / "loggers.yaml"),
        *("--model.backbone", "resnet10t", "--model.weights", resnet_file, "--data.source.root", images),
        *("--data.image_size", 64, "--data.batch_size", 4, "--trainer.max_epochs", 2),
        *("--trainer.log_every_n_steps", 1, "--trainer.default_root_dir", tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    main()
    import wandb

    wandb.finish()
    rows = json.loads((tmp_path / "run/metrics.json").read_text())["rows"]
    scalars = {"train/loss_step", "val/loss", "train/lr", "train/images_per_second", "system/peak_memory_gib"}
    metrics = {f"test/{row}/{name}" for row in rows for name in ("image_auroc", "pixel_auroc", "aupro_30")}
    pictures = {"test/scores", "test/image_roc", "test/pixel_roc", "test/pro"}

    board = EventAccumulator(str(next((tmp_path / "logs/lightning_logs").glob("version_*"))))
    board.Reload()
    assert scalars | metrics <= set(board.Tags()["scalars"])
    assert board.Scalars("test/overall/image_auroc")[-1].value == pytest.approx(rows["overall"]["image_auroc"])
    assert pictures <= set(board.Tags()["images"])
    assert any(tag.startswith("test/worst_misses/") for tag in board.Tags()["images"])

    found = records(next((tmp_path / "logs").glob("wandb/offline-run-*/*.wandb")))
    logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
    assert scalars | metrics | pictures | {"test/worst_misses"} <= logged
    config = {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.config.update}
    config |= {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.run.config.update}
    assert "resnet10t" in json.dumps(config)
    assert str(images) in json.dumps(config)  # the whole configuration, not the model's alone
    assert str(images) in (tmp_path / "logs/lightning_logs/version_0/hparams.yaml").read_text()
