"""The DataModule: training, held-out and test images; order, workers and caches; the command line."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from lit_ad.batch import Batch, Sample
from lit_ad.data import AnomalyDataModule, Demo, Folder, Loading, MVTec, Perlin, Split
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.sources import demo
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from lit_ad.training.cache_parts import find_cacheable
from tests.data.conftest import Write
from tests.data.loaded import module, order
from tests.optional import unwrap
from tests.processes import run_as_launched


class Listed(Source):
    def __init__(self, listed: list[Sample]) -> None:
        self.listed = listed

    def samples(self) -> list[Sample]:
        return self.listed


def test_the_datamodule_holds_out_the_validation_images_of_a_data_set(
    bottle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = MVTec(bottle).samples()
    moved = [s._replace(split="validation") if s.split == "train" and i < 3 else s for i, s in enumerate(listed)]
    data = AnomalyDataModule(Listed(moved), View(16), batch_size=4, split=Split(0.5))
    data.setup("fit")
    assert [len(getattr(data.splits, split)) for split in ("train", "val", "test")] == [7, 3, 5]
    assert capsys.readouterr().out == (
        "bottle: 7 to train on, 3 held out; test: 3 good, 2 broken (1 with masks); 20x24, 8-bit RGB\n"
        "  held out are the validation images of the data set, so data.split.val_fraction is not used\n"
    )
    (batch,) = data.val_dataloader()
    assert batch.masks is None and [s.image for s in batch.samples] == [s.image for s in moved[:3]]
    assert [list(rows) for rows, _ in find_cacheable(data, False)] == [["train"], ["val"]]
    bad = moved[-1]._replace(split="validation", label=1)
    with pytest.raises(UserError, match=rf"anomalous image in validation: {bad.image} .*validation takes nominal"):
        AnomalyDataModule(Listed([*moved[:-1], bad]), View(16)).setup("fit")


def test_the_datamodule_gives_batches_of_each_split(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), View(16), batch_size=4)
    data.setup("fit")
    assert {split: len(samples) for split, samples in vars(data.splits).items()} == {"train": 8, "val": 2, "test": 5}
    batch = next(iter(data.train_dataloader()))
    assert batch.pixels.shape == (4, 3, 16, 16) and batch.pixels.dtype == torch.uint8 and batch.masks is None
    assert batch.labels.tolist() == [0] * 4 and {(s.category, s.defect) for s in batch.samples} == {("bottle", "good")}
    test = list(data.test_dataloader())
    assert [[s.defect for s in b.samples] for b in test] == [["broken", "broken", "good", "good"], ["good"]]
    assert [m is None for m in test[0].masks] == [False, True, False, False]
    assert order(data.test_dataloader()) == [0, 1, 2, 3, 4] and order(data.val_dataloader()) == [0, 1]


def test_setup_lists_the_samples_once(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), View(16))
    data.setup("fit")
    splits = data.splits
    data.setup("test")
    assert data.splits is splits


def test_an_anomalous_training_image_is_an_error(bottle: Path) -> None:
    data = AnomalyDataModule(
        Listed([Sample(Path("a.png"), 0), Sample(Path("b.png"), 0), Sample(Path("x.png"), 1, defect="dent")]), View(16)
    )
    with pytest.raises(UserError, match=r"anomalous image in training: x.png"):
        data.setup("fit")


def test_a_source_without_test_images_trains_and_refuses_a_test(tmp_path: Path, write: Write) -> None:
    for i in range(4):
        write(f"ok/{i}.png")
    data = AnomalyDataModule(Folder("ok", root=tmp_path), View(16))
    data.setup("fit")
    assert len(order(data.train_dataloader())) == 3
    with pytest.raises(UserError, match="the Folder source lists no test images"):
        data.test_dataloader()


@pytest.mark.parametrize("batch_size", [3, 50])
def test_every_training_image_is_seen_in_every_epoch(bottle: Path, batch_size: int) -> None:
    data = AnomalyDataModule(MVTec(bottle), View(16), batch_size=batch_size)
    assert sorted(order(data.train_dataloader())) == list(range(len(data.splits.train)))


def test_predict_reads_a_folder_and_needs_no_training_images(tmp_path: Path, bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(tmp_path / "gone"), View(16), predict_path=bottle / "test")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.labels.tolist() == [-1] * 5 and batch.masks is None
    data = AnomalyDataModule(MVTec(bottle), View(16))
    data.setup("predict")
    assert len(order(data.predict_dataloader())) == 5


def test_images_already_predicted_are_left_out_of_one_run(bottle: Path) -> None:
    """The next run predicts all images again, because its model may be another model."""
    data = AnomalyDataModule(MVTec(bottle), View(16))
    data.setup("predict")
    data.already_predicted = frozenset(str(data.splits.test[i].image) for i in (0, 3))
    assert order(data.predict_dataloader()) == [1, 2, 4] and order(data.test_dataloader()) == [0, 1, 2, 3, 4]
    data.setup("predict")
    assert order(data.predict_dataloader()) == [0, 1, 2, 3, 4]


def test_the_batch_size_of_the_evaluation_can_differ(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), View(16), batch_size=4, loading=Loading(eval_batch_size=5))
    assert [len(b) for b in data.test_dataloader()] == [5]


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"eval_batch_size": -1}, {"num_workers": -1}],
)
def test_sizes_out_of_range_are_refused(bottle: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        module(bottle, View(16), **wrong)


class Watcher(L.LightningModule):
    """A module that records its batches and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.shapes: set[torch.Size] = set()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.index.tolist())
        self.shapes.add(unwrap(batch.pixels).shape)
        return self.weight * unwrap(batch.pixels).float().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.shapes.add(unwrap(batch.pixels).shape)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_sees_the_same_batches_with_the_same_seed(bottle: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"max_epochs": 3, "default_root_dir": tmp_path, "enable_checkpointing": False, "accelerator": "cpu"}
    data, models = AnomalyDataModule(MVTec(bottle), View(20).of_multiple(14), batch_size=4), [Watcher(), Watcher()]
    for model in models:
        L.seed_everything(5)
        trainer = L.Trainer(**options)
        trainer.fit(model, data)
    trainer.test(models[1], data)
    trainer.predict(models[1], data)
    assert models[0].seen == models[1].seen and len(models[0].seen) == 6
    assert sorted(models[0].seen[0]) != sorted(models[0].seen[2])
    assert {shape[-2:] for model in models for shape in model.shapes} == {(28, 28)}


def parse(*arguments: str) -> Namespace:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(AnomalyDataModule, "data")
    return parser.parse_args(arguments)


@pytest.mark.parametrize("name", ["MVTec", "lit_ad.data.MVTec"])
def test_the_source_and_the_view_are_read_from_the_command_line(bottle: Path, name: str) -> None:
    config = parse(f"--data.source={name}", "--data.source.root", str(bottle), "--data.view.image_size=[32,48]")
    assert config.data.source.init_args.root == bottle and config.data.view.image_size == (32, 48)
    size = ("--data.view.image_size", "null")
    assert parse(f"--data.source={name}", f"--data.source.root={bottle}", *size).data.view.image_size is None


def test_loading_options_are_read_from_the_command_line(bottle: Path) -> None:
    """The options can be given one by one, or together as one block."""
    arguments = ("--data.source=MVTec", f"--data.source.root={bottle}", "--data.batch_size=4")
    loading = parse(*arguments, "--data.loading.num_workers=0", "--data.loading.train_tiles=random").data.loading
    assert (loading.num_workers, loading.train_tiles, loading.cache_images) == (0, "random", None)
    loading = parse(*arguments, '--data.loading={"balanced": true, "eval_batch_size": 2}').data.loading
    assert (loading.balanced, loading.eval_batch_size, loading.inspect) == (True, 2, True)


def test_the_corruption_is_read_from_the_command_line_and_kept_in_the_record(bottle: Path) -> None:
    arguments = ("--data.source=MVTec", f"--data.source.root={bottle}", "--data.view.image_size=16")
    corrupt = parse(*arguments, "--data.corrupt=Perlin", "--data.corrupt.opacity=[0.5, 1]").data.corrupt
    assert (corrupt.class_path.rpartition(".")[2], corrupt.init_args.opacity) == ("Perlin", (0.5, 1.0))
    data = AnomalyDataModule(MVTec(bottle), View(16), corrupt=Perlin(opacity=(0.5, 1.0)))
    assert data.record.settings["data.corrupt"] == "Perlin(fineness=(0, 5), limit=0.5, opacity=(0.5, 1.0))"
    assert data.random_setting is None  # the image itself does not change, so its features may be cached
    (one,) = data.train_dataloader()
    assert one.corrupted.shape == one.pixels.shape and next(iter(data.val_dataloader())).corrupted is None
    assert next(iter(data.nominal_dataloader())).corrupted is None


def test_a_configuration_in_yaml_makes_the_same_datamodule_again(bottle: Path, tmp_path: Path) -> None:
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    one_of = {"class_path": "albumentations.OneOf", "init_args": {"transforms": [flip], "p": 0.3}}
    source = {"class_path": "lit_ad.data.Folder", "init_args": {"nominal": "train/good", "root": str(bottle)}}
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"source": source, "view": {"image_size": 32}, "augment": [flip, one_of]}))
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(AnomalyDataModule, "data")
    config = parser.parse_args([f"--data={file}"])
    again = parser.parse_object(yaml.safe_load(parser.dump(config)))
    data = parser.instantiate(again).data
    assert [type(t) for t in data.augment.compose.transforms] == [A.HorizontalFlip, A.OneOf]
    data.setup("fit")
    assert len(data.splits.train) == 8 and data.view == View(32)


def test_prepare_data_makes_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "TEXTURES", {"brick": 1.0})
    AnomalyDataModule(Demo(tmp_path), View(16)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [demo.VERSION]


def test_images_of_different_sizes_are_tested_but_not_trained_on_in_one_batch(shared: Path) -> None:
    data = AnomalyDataModule(
        MVTec(shared / "data" / "magnetic_tile"), View(None), batch_size=4, loading=Loading(num_workers=0)
    )
    batch = next(iter(data.test_dataloader()))
    assert len(set(batch.sizes)) > 1 and all(m.shape == s for m, s in zip(batch.masks, batch.sizes, strict=True))
    with pytest.raises(UserError, match="training images of different sizes"):
        next(iter(data.train_dataloader()))


def test_a_mask_of_another_size_is_found_before_training(bottle: Path) -> None:
    mask = next((bottle / "ground_truth").rglob("*.png"))
    Image.new("L", (3, 5), 255).save(mask)
    with pytest.raises(UserError, match=f"mask of another size: {mask} is 5x3"):
        AnomalyDataModule(MVTec(bottle), View(16)).setup("fit")


def test_the_random_setting_names_what_changes_the_training_images(bottle: Path) -> None:
    """A part of the program that keeps data of each training image needs this name."""

    def random(view: View, **kwargs: object) -> str | None:
        return module(bottle, view, **kwargs).random_setting

    assert random(View(16)) is random(View(16), train_tiles="random") is random(View(16, tile=8)) is None
    assert random(View(16), augment=[A.HorizontalFlip()]) == "data.augment"
    assert random(View(16, tile=8), train_tiles="random") == "data.loading.train_tiles: random"


@pytest.mark.parametrize("view", [View(16), View((32, 24), tile=16, overlap=0)])
def test_nominal_and_held_out_images_come_once_in_order_without_augmentation(bottle: Path, view: View) -> None:
    """The statistics of a method need these loaders. Tiles come where the view has tiles. The training has another
    order."""
    data = AnomalyDataModule(MVTec(bottle), view, batch_size=3, augment=[A.InvertImg(p=1)])
    pieces = 2 * 2 if view.tile else 1
    for split, loader, count in (("train", data.nominal_dataloader(), 8), ("val", data.held_out_dataloader(), 2)):
        batches = list(loader)
        assert order(batches) == list(range(count * pieces))
        assert [s for b in batches for s in b.samples][::pieces] == getattr(data.splits, split)
        first, _ = view(read_image(getattr(data.splits, split)[0].image))
        if view.tile:
            first = first[:16, :16]
        assert np.array_equal(batches[0].pixels[0].permute(1, 2, 0), first)
    trained = {i: pixels for b in data.train_dataloader() for i, pixels in zip(b.index.tolist(), b.pixels, strict=True)}
    nominal = torch.cat([b.pixels for b in data.nominal_dataloader()])
    assert all(torch.equal(255 - trained[i], pixels) for i, pixels in enumerate(nominal))


def test_the_summary_of_the_data_is_printed_once_before_training(
    bottle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "bottle: 8 to train on, 2 held out; test: 3 good, 2 broken (1 with masks); 20x24, 8-bit RGB\n"
    data = AnomalyDataModule(MVTec(bottle), View(16))
    for stage, said in (("validate", ""), ("fit", line), ("fit", ""), ("test", ""), ("predict", "")):
        data.setup(stage)
        assert capsys.readouterr().out == said
    AnomalyDataModule(MVTec(bottle), View(16), loading=Loading(inspect=False)).setup("fit")
    assert capsys.readouterr().out == ""
    (bottle / "ground_truth").rename(bottle / "groundtruth")
    AnomalyDataModule(MVTec(bottle), View(16)).setup("test")
    assert capsys.readouterr().out == (
        "bottle: 8 to train on, 2 held out; test: 3 good, 2 broken, no masks; 20x24, 8-bit RGB\n"
        f"  Warning: {bottle / 'groundtruth'} is not read: it should be called ground_truth\n"
    )


def test_hidden_folders_among_unrelated_images_are_reported(
    bottle: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("elsewhere/a.png")
    hidden, link = write("photographs/.trash/b.png"), bottle.parent / "photographs/more"
    link.symlink_to(bottle.parent / "elsewhere")
    data = AnomalyDataModule(MVTec(bottle), View(16), unrelated=link.parent)
    data.setup("fit")
    remark = f"hidden files and folders that are left out, 1: {hidden.parent}"
    assert f"\n  in data.unrelated, {remark}\n" in capsys.readouterr().out
    dataset = data.train_dataloader().dataset
    assert isinstance(dataset, AnomalyDataset)
    (item,) = unwrap(dataset.unrelated).images
    assert item == link / "a.png"
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        AnomalyDataModule(MVTec(bottle), View(16), unrelated=bottle / "nowhere").setup("fit")


def test_a_damaged_test_image_is_found_before_training(bottle: Path, tmp_path: Path) -> None:
    bad = bottle / "test/broken/001.png"
    bad.write_bytes(bad.read_bytes()[:-100])
    data, model = AnomalyDataModule(MVTec(bottle), View(16)), Watcher()
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"default_root_dir": tmp_path, "enable_checkpointing": False, "accelerator": "cpu"}
    with pytest.raises(UserError, match=f"cannot read {bad}: image file is truncated.*; replace or remove it"):
        L.Trainer(max_epochs=1, **options).fit(model, data)
    assert not model.seen


class SeesNumbers(L.LightningModule):
    """Remembers the numbers of the images that it saw, by split."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[int]] = {"val": [], "test": []}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        assert batch.pixels is not None
        return self.weight * batch.pixels.float().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["val"] += batch.index.tolist()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"] += batch.index.tolist()
        assert batch.pixels is not None
        assert len(batch.samples) == len(batch.pixels) == len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit_and_test(rank: int, root: Path, folder: Path) -> None:
    """Run one of two processes, and write what it printed, the images that it saw, and its error."""
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1, "logger": False}
    options |= {"enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0}
    printed, error = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        trainer, model = L.Trainer(default_root_dir=folder, **options), SeesNumbers()
        data = AnomalyDataModule(MVTec(root), View(16), batch_size=2, split=Split(0.3))
        try:
            trainer.fit(model, data)
            trainer.test(model, data)
        except UserError as raised:
            error = str(raised)
    result = {"printed": printed.getvalue(), "error": error, "seen": model.seen}
    (folder / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_share_the_images_and_the_errors(bottle: Path, tmp_path: Path, damaged: bool) -> None:
    """One process prints the summary. Both processes get an error, so that neither waits for the other. No image of 3
    or of 5 is seen twice."""
    bad = bottle / "test/broken/001.png"
    if damaged:
        bad.write_bytes(bad.read_bytes()[:-100])
    run_as_launched(fit_and_test, bottle, tmp_path)
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert "".join(each["printed"] for each in both).count("bottle: 7 to train on, 3 held out") == 1
    for each in both:
        assert each["error"].startswith(f"cannot read {bad}: ") if damaged else each["error"] == ""
    for split, count in (("val", 3), ("test", 5)):
        seen = [each["seen"][split] for each in both]
        assert sorted(seen[0] + seen[1]) == ([] if damaged else list(range(count)))
        assert damaged or abs(len(seen[0]) - len(seen[1])) == 1
