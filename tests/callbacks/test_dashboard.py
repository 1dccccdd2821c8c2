"""What wandb (offline) and TensorBoard hold after a run, read back with their own readers."""

import io
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from lit_ad.run.main import main

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


def fit(images: Path, weights: Path, run: Path, *more: object) -> dict[str, dict[str, float]]:
    """Two epochs through the CLI -> the rows of metrics.json."""
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t", "--model.weights", weights),
        *(
            "--data.source.root",
            images,
            "--model.view.image_size",
            64,
            "--data.batch_size",
            4,
            "--trainer.max_epochs",
            2,
        ),
        *("--trainer.log_every_n_steps", 1, "--trainer.default_root_dir", run, *more),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        patch.setenv("WANDB_SILENT", "true")
        main()
    import wandb

    wandb.finish()
    return json.loads((run / "metrics.json").read_text())["rows"]  # type: ignore[no-any-return]


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where nobody logged in to wandb."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody to ask


@pytest.mark.usefixtures("no_key")
def test_both_dashboards_hold_the_run(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """By one line of YAML; wandb, which finds no key, works offline."""
    (tmp_path / "dashboards.yaml").write_text("dashboards: [wandb, tensorboard]\n")
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match="wandb works offline .*wandb sync"):
        rows = fit(images, resnet_file, run, "--config", tmp_path / "dashboards.yaml")
    scalars = {"train/loss_step", "val/loss", "train/lr", "train/images_per_second"}
    scalars |= {"system/peak_memory_gib", "system/cpu_cores"}
    metrics = {f"test/{row}/{name}" for row in rows for name in ("image_auroc", "pixel_auroc", "aupro_30")}
    pictures = {"test/scores", "test/image_roc", "test/pixel_roc", "test/pro"}

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert scalars | metrics <= set(board.Tags()["scalars"])
    assert board.Scalars("test/overall/image_auroc")[-1].value == pytest.approx(rows["overall"]["image_auroc"])
    assert pictures <= set(board.Tags()["images"])
    assert any(tag.startswith("test/worst_misses/") for tag in board.Tags()["images"])

    found = records(next(run.glob("wandb/offline-run-*/*.wandb")))
    logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
    assert scalars | metrics | pictures | {"test/worst_misses"} <= logged
    config = {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.config.update}
    config |= {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.run.config.update}
    assert "resnet10t" in json.dumps(config)
    assert str(images) in json.dumps(config)  # the whole configuration, not the model's alone
    assert str(images) in (run / "tensorboard/hparams.yaml").read_text()

    again = ("--config", tmp_path / "dashboards.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    fit(images, resnet_file, run, *again, "--trainer.max_epochs", 3)
    runs = [record.run.run_id for file in run.glob("wandb/offline-run-*/*.wandb") for record in records(file)]
    assert {one for one in runs if one} == {(run / "wandb_id").read_text()}  # resumed in the same wandb run


@pytest.mark.usefixtures("no_key")
def test_a_full_disk_for_logs_costs_a_warning(
    images: Path, resnet_file: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = str(small_disk("100k"))
    loggers = [
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"save_dir": disk}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": disk}},
    ]
    (tmp_path / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    with pytest.warns(UserWarning, match="No space left on device"):
        rows = fit(images, resnet_file, tmp_path / "run", "--config", tmp_path / "loggers.yaml")
    assert 0 < rows["overall"]["pixel_auroc"] <= 1


@pytest.mark.slow  # wandb tries for a minute and a half
@pytest.mark.usefixtures("no_key")
def test_without_a_network_wandb_works_offline(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody answers
    with pytest.warns(UserWarning, match="wandb works offline"):
        fit(images, resnet_file, tmp_path / "run", "--dashboards", "[wandb]")
    found = records(next((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
    logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
    assert {"train/loss_step", "test/overall/image_auroc"} <= logged
