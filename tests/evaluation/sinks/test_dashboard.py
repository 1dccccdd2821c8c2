"""Dashboards: the records of wandb (offline) and TensorBoard after a run, read with their own readers."""

import io
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from lit_ad.commands.main import main
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.detector.decision import Decision
from lit_ad.evaluation import Evaluation, Heatmaps
from lit_ad.evaluation.results import COLUMNS, ImageResult, Results
from lit_ad.evaluation.sinks import dashboard
from lit_ad.evaluation.sinks.dashboard import (
    Dashboard,
    draw_curve,
    draw_histogram,
    make_curve_title,
    make_row_key,
    show_misses,
)
from lit_ad.training import loggers

ROOT = Path(__file__).parents[3]
MESSAGES: Any = wandb_internal_pb2  # made for the installed protobuf when it is imported: mypy sees none of them


def records(file: Path) -> list[Any]:
    """Read all records of an offline wandb run: protobuf in LevelDB's log format, after a header of 7 bytes."""
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
            found.append(MESSAGES.Record.FromString(parts))
            parts = b""
    return found


def fit(images: Path, weights: Path, run: Path, *more: object) -> dict[str, dict[str, float]]:
    """Train two epochs by the command line, and return the rows of metrics.json."""
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
    """Make this machine one where nobody is logged in to wandb."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DATA_DIR", "WANDB_INIT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody to ask


@pytest.mark.usefixtures("no_key")
def test_both_dashboards_hold_the_run(images: Path, resnet_file: Path, tmp_path: Path) -> None:
    """One line of YAML turns them on. wandb finds no key, and works offline."""
    (tmp_path / "dashboards.yaml").write_text("dashboards: [wandb, tensorboard]\n")
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match="wandb works offline .*wandb sync"):
        rows = fit(images, resnet_file, run, "--config", tmp_path / "dashboards.yaml")
    scalars = {"train/loss_step", "val/loss", "train/lr", "train/images_per_second"}
    scalars |= {"system/peak_memory_gib", "system/cpu_cores"}
    metrics = {
        f"test/{row}/{name}"
        for row in ("pooled", "defect/stripes/square")
        for name in ("image_auroc", "pixel_auroc", "aupro_30", "miss_rate")
    }
    pictures = {"test/scores", "test/image_roc", "test/pixel_roc", "test/pro"}

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert scalars <= set(board.Tags()["scalars"])
    assert board.Scalars("test/image_auroc")[-1].value == pytest.approx(rows["pooled"]["image_auroc"])
    tested = {tag for tag in board.Tags()["scalars"] if tag.startswith("test/")}
    assert tested == {f"test/{name}" for name in COLUMNS}  # each is a card: no more than people quote
    assert pictures <= set(board.Tags()["images"])
    assert any(tag.startswith("test/worst_misses/") for tag in board.Tags()["images"])

    found = records(next(run.glob("wandb/offline-run-*/*.wandb")))
    logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
    assert scalars | metrics | pictures | {"test/worst_misses"} <= logged
    config = {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.config.update}
    config |= {item.key or "/".join(item.nested_key): item.value_json for r in found for item in r.run.config.update}
    assert "resnet10t" in json.dumps(config)
    assert str(images) in json.dumps(config)  # the whole configuration, not the model's alone
    (shown,) = (event.tensor_proto.string_val[0].decode() for event in board.Tensors("config/text_summary"))
    assert shown == "".join(f"    {line}\n" for line in (run / "config.yaml").read_text().splitlines())

    for record in found:  # what `wandb sync` will want lies in the run, not in the home directory or /tmp
        for entry in record.artifact.manifest.contents:
            assert Path(entry.local_path).is_relative_to(run) and Path(entry.local_path).is_file()
        for file in record.files.files:
            assert (next(run.glob("wandb/offline-run-*")) / "files" / file.path).is_file()
    wanted = [Path(entry.path) for record in found for entry in record.artifact.manifest.contents]
    assert {path.suffix for path in wanted} == {".jpg", ".json"}  # the worst misses and their table
    assert not (tmp_path / "home/.local/share/wandb").exists()

    again = ("--config", tmp_path / "dashboards.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    fit(images, resnet_file, run, *again, "--trainer.max_epochs", 3)
    runs = [record.run.run_id for file in run.glob("wandb/offline-run-*/*.wandb") for record in records(file)]
    assert {one for one in runs if one} == {(run / "wandb_id").read_text()}  # resumed in the same wandb run


@pytest.mark.usefixtures("no_key")
def test_a_full_disk_for_logs_gives_a_warning(
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
    assert 0 < rows["pooled"]["pixel_auroc"] <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_key")
def test_without_a_network_wandb_works_offline_after_10_seconds(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default wandb waits 90 seconds, and 10 before that."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody answers
    took, open_logger = [], loggers.open_logger

    def timed(logger: Logger) -> bool:
        begun = time.monotonic()
        there = open_logger(logger)
        took.append(time.monotonic() - begun)
        return there

    monkeypatch.setattr(loggers, "open_logger", timed)
    with pytest.warns(UserWarning, match="wandb works offline"):
        fit(images, resnet_file, tmp_path / "run", "--dashboards", "[wandb]")
    assert 9 < took[0] < 60  # to begin offline takes some, too
    found = records(next((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
    logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
    assert {"train/loss_step", "test/pooled/image_auroc"} <= logged


def test_keys_of_rows() -> None:
    """A category or a defect type with the name of a row has a key of its own."""
    assert [make_row_key(row) for row in ("pooled", "mean", "nut/", "nut/dent", "pooled/", "mean/mean")] == [
        *("test/pooled", "test/mean", "test/category/nut", "test/defect/nut/dent"),
        *("test/category/pooled", "test/defect/mean/mean"),
    ]
    assert make_row_key("n\udcfct/a\nb") == r"test/defect/n\xfct/a\nb"  # clients take no other text


def test_titles_of_curves_have_their_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"image_auroc": 0.91234, "pixel_auroc": 0.82341, "aupro_30": 0.73456}
    assert make_curve_title("image_roc", metrics) == "ROC curve of images, area 0.9123"
    assert make_curve_title("pixel_roc", metrics) == "ROC curve of pixels, area 0.8234"
    assert make_curve_title("pro", metrics) == "PRO curve, area up to 0.3 is 0.7346"
    figures: list[Any] = []
    monkeypatch.setattr(dashboard, "render", figures.append)
    x, y = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.9, 1.0])
    for name, label in (("image_roc", "true positive rate"), ("pixel_roc", "true positive rate"), ("pro", "overlap")):
        draw_curve(name, x, y, metrics)
        (axes,) = figures[-1].axes
        assert (axes.get_title(), axes.get_ylabel()) == (make_curve_title(name, metrics), label)
        assert axes.get_xlabel() == "false positive rate"
        assert axes.lines[0].get_xydata().tolist() == np.stack([x, y], axis=1).tolist()


def scored(threshold: float | None = 0.5) -> Results:
    scores = [("a", 0, 0.1), ("b", 0, 0.2), ("c", 1, 0.9), ("d", 1, 0.3)]
    return Results({}, [ImageResult(n, "nut", "x", label, s, threshold) for n, label, s in scores], threshold=threshold)


def test_the_histogram_counts_both_kinds_and_shows_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(dashboard, "render", figures.append)
    draw_histogram(scored())
    (axes,) = figures[-1].axes
    nominal, anomalous = ([patch for patch in bars.patches if patch.get_height()] for bars in axes.containers)
    for bars, scores in ((nominal, (0.1, 0.2)), (anomalous, (0.3, 0.9))):
        assert [patch.get_height() for patch in bars] == [1, 1]
        for patch, score in zip(bars, scores, strict=True):
            assert patch.get_x() - 1e-9 <= score <= patch.get_x() + patch.get_width() + 1e-9
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {
        *("nominal", "anomalous", "threshold (nominal held-out images)")
    }
    assert axes.lines[0].get_xdata() == [0.5, 0.5]
    draw_histogram(scored(None))
    assert not figures[-1].axes[0].lines


def test_a_figure_is_rendered_to_pixels() -> None:
    pixels = draw_histogram(scored())
    assert pixels.shape == (400, 600, 3) and pixels.dtype == np.uint8
    assert pixels.min() < 100 and pixels[0, 0].tolist() == [255, 255, 255]


def test_misses_with_pictures_are_shown_the_worst_first(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.full((4, 5, 3), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    images = scored().images
    misses = [(images[0], tmp_path / "0.png"), (images[1], tmp_path / "elsewhere.png"), (images[2], tmp_path / "1.png")]
    logger = TensorBoardLogger(str(tmp_path / "board"))
    show_misses(logger, misses, step=3)
    logger.experiment.flush()
    board = EventAccumulator(logger.log_dir)
    board.Reload()
    assert board.Tags()["images"] == ["test/worst_misses/00", "test/worst_misses/01"]
    shown = board.Images("test/worst_misses/01")[0]
    assert (shown.step, shown.height, shown.width) == (3, 4, 5)
    assert np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))).max() == 50


@pytest.mark.parametrize("pictures", [True, False])
def test_a_dashboard_shows_every_row_and_the_worst_misses(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, pictures: bool
) -> None:
    model = brightness()
    model.decision = Decision({"bolt": [0.73], "nut": [0.9]}, {"bolt": [0.7], "nut": [0.8]}, {"bolt": [0.4]}, 0.4)  # type: ignore[dict-item]
    evaluation, heatmaps = Evaluation(), Heatmaps(enabled=pictures, height=32)
    trainer = quiet_trainer(tmp_path / "run", evaluation, heatmaps, Dashboard(misses=1))
    trainer.loggers = [TensorBoardLogger(str(tmp_path / "board"))]
    trainer.test(model, AnomalyDataModule(MVTec(parts), model.view, loading=Loading(num_workers=0)), verbose=False)
    board = EventAccumulator(trainer.loggers[0].log_dir)
    board.Reload()
    results = evaluation.results
    assert results is not None
    for name in COLUMNS:
        assert board.Scalars(f"test/{name}")[-1].value == pytest.approx(results.rows["mean"][name], rel=1e-6)
    (table,) = (event.tensor_proto.string_val[0].decode() for event in board.Tensors("test/table/text_summary"))
    assert table == "".join(f"    {line}\n" for line in results.table().splitlines())
    misses = [tag for tag in board.Tags()["images"] if "misses" in tag]
    assert misses == (["test/worst_misses/00"] if pictures else [])
    assert len(results.worst_wrong_verdicts(9)) > 1
    if pictures:
        (worst,) = results.worst_wrong_verdicts(1)
        shown = Image.open(io.BytesIO(board.Images(misses[0])[0].encoded_image_string))
        assert np.array_equal(np.asarray(shown), np.asarray(Image.open(heatmaps.stage.picture(worst.path))))
