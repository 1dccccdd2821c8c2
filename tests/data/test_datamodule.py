import os
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from torch.utils.data import DataLoader

from lit_ad.batch import Batch
from lit_ad.data import AnomalyDataModule, Demo, Folder, MVTec, demo
from lit_ad.data.datamodule import Shuffle, split_nominal
from lit_ad.data.sample import Sample, Source
from lit_ad.data.transforms import A


class Listed(Source):
    def __init__(self, listed: list[Sample]) -> None:
        self.listed = listed

    def samples(self) -> list[Sample]:
        return self.listed


def order(loader: DataLoader[Batch]) -> list[int]:
    return [i for batch in loader for i in batch.index.tolist()]


def nominal(count: int, category: str = "") -> list[Sample]:
    return [Sample(Path(f"{category}/{i:03}.png"), 0, category=category) for i in range(count)]


def test_validation_is_cut_from_each_category_by_a_seed() -> None:
    samples = nominal(10, "a") + nominal(2, "b") + nominal(40, "c")
    train, val = split_nominal(samples, 0.2, 0)
    assert sorted(train + val, key=samples.index) == samples
    assert [sum(s.category == c for s in val) for c in "abc"] == [2, 1, 8]
    assert (train, val) == split_nominal(samples, 0.2, 0) and val != split_nominal(samples, 0.2, 1)[1]
    assert len(split_nominal(nominal(2), 0.99, 0)[0]) == 1


def test_too_few_nominal_images() -> None:
    with pytest.raises(ValueError, match="no nominal image to train on"):
        split_nominal([], 0.2, 0)
    with pytest.raises(ValueError, match=r"category 'b' has one nominal training image, b/000.png"):
        split_nominal(nominal(5, "a") + nominal(1, "b"), 0.2, 0)


def test_plain_python(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), image_size=16, batch_size=4)
    data.setup("fit")
    assert {split: len(samples) for split, samples in data.listed.items()} == {"train": 8, "val": 2, "test": 5}
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 16, 16) and batch.image.dtype == torch.uint8 and batch.mask is None
    assert batch.label.tolist() == [0] * 4 and batch.category == ["bottle"] * 4 and batch.defect == ["good"] * 4
    test = list(data.test_dataloader())
    assert [b.defect for b in test] == [["broken", "broken", "good", "good"], ["good"]]
    assert [m is None for m in test[0].mask] == [False, True, False, False]
    assert order(data.test_dataloader()) == [0, 1, 2, 3, 4] and order(data.val_dataloader()) == [0, 1]


def test_setup_lists_once(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle))
    data.setup("fit")
    listed = data.listed
    data.setup("test")
    assert data.listed is listed


def test_an_anomalous_training_image_is_an_error(bottle: Path) -> None:
    data = AnomalyDataModule(Listed([*nominal(4), Sample(Path("x.png"), 1, defect="dent")]))
    with pytest.raises(ValueError, match=r"anomalous image in training: x.png"):
        data.setup("fit")


def test_no_test_images(tmp_path: Path, write) -> None:
    for i in range(4):
        write(f"ok/{i}.png")
    data = AnomalyDataModule(Folder("ok", root=tmp_path))
    data.setup("fit")
    assert len(order(data.train_dataloader())) == 3
    with pytest.raises(ValueError, match="the Folder source lists no test images"):
        data.test_dataloader()


@pytest.mark.parametrize("batch_size", [3, 50])
def test_every_training_image_is_seen_in_every_epoch(bottle: Path, batch_size: int) -> None:
    module = AnomalyDataModule(MVTec(bottle), image_size=16, batch_size=batch_size)
    assert sorted(order(module.train_dataloader())) == list(range(len(module.listed["train"])))


def test_predict_takes_a_folder_and_asks_for_no_training_images(tmp_path: Path, bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(tmp_path / "gone"), image_size=16, predict_path=bottle / "test")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.label.tolist() == [-1] * 5 and batch.mask is None
    data = AnomalyDataModule(MVTec(bottle), image_size=16)
    data.setup("predict")
    assert len(order(data.predict_dataloader())) == 5


def test_eval_batch_size(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), image_size=16, batch_size=4, eval_batch_size=5)
    assert [len(b) for b in data.test_dataloader()] == [5]


@pytest.mark.parametrize(
    "wrong", [{"val_fraction": 0}, {"val_fraction": 1}, {"batch_size": 0}, {"image_size": 0}, {"eval_batch_size": -1}]
)
def test_arguments(bottle: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AnomalyDataModule(MVTec(bottle), **wrong)


def test_cache_by_itself_only_where_it_is_small(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(**kwargs: object) -> list[bool]:
        data = AnomalyDataModule(MVTec(bottle), **kwargs)
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [loader.dataset.cache is not None for loader in loaders]

    assert cached(image_size=16) == [True, True, False]
    assert cached(image_size=16, cache_images=False) == [False, False, False]
    assert cached(image_size=None) == [False, False, False]
    assert cached(image_size=None, cache_images=True) == [True, True, False]
    monkeypatch.setattr("lit_ad.data.datamodule.CACHE_BYTES", 10 * 16 * 16 * 3 - 1)
    assert cached(image_size=16) == [False, False, False]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(**kwargs: object) -> tuple[int, int]:
        data = AnomalyDataModule(MVTec(bottle), image_size=16, **kwargs)
        return data.train_dataloader().num_workers, data.test_dataloader().num_workers

    monkeypatch.setattr("lit_ad.data.datamodule.cores", lambda: 3)
    assert workers() == (0, 2)
    assert workers(cache_images=False) == (2, 2)
    assert workers(augment=[A.HorizontalFlip()]) == (2, 2)
    assert workers(num_workers=1) == (1, 1)
    monkeypatch.setattr("lit_ad.data.datamodule.cores", lambda: 64)
    assert workers(cache_images=False) == (4, 4)
    monkeypatch.setattr("lit_ad.data.datamodule.cores", lambda: 1)
    assert workers(cache_images=False) == (0, 0)


def test_order_depends_on_seed_and_epoch_alone(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epochs(seed: int, draws: int) -> list[list[int]]:
        monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", str(seed))
        loader = AnomalyDataModule(MVTec(bottle), image_size=16, batch_size=4).train_dataloader()
        orders = []
        for _ in range(3):
            torch.rand(draws)  # what the model draws must not matter
            orders.append(order(loader))
        return orders

    one = epochs(1, 2)
    assert one == epochs(1, 5) and one != epochs(2, 2)
    assert one[0] != one[1] != one[2]
    monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", "1")
    resumed = AnomalyDataModule(MVTec(bottle), image_size=16, batch_size=4).train_dataloader()
    resumed.sampler.set_epoch(2)
    assert order(resumed) == one[2]


def test_loading_draws_nothing_from_the_models_randomness(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), image_size=16)
    state = torch.get_rng_state()
    order(data.train_dataloader())
    order(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_an_epoch(bottle: Path) -> None:
    dataset = AnomalyDataModule(MVTec(bottle), image_size=16).train_dataloader().dataset
    parts = [list(Shuffle(dataset, 2, rank, seed=0)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(8))


def test_augmentations_are_those_of_seed_and_epoch_however_many_workers(bottle: Path) -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        data = AnomalyDataModule(
            MVTec(bottle), image_size=16, batch_size=4, augment=[A.GaussNoise(p=1)], num_workers=workers
        )
        loader = data.train_dataloader()
        return [torch.cat([b.image[b.index.argsort()] for b in loader]) for _ in range(2)]

    alone, many = epochs(0), epochs(2)
    assert torch.equal(alone[0], many[0]) and torch.equal(alone[1], many[1])
    assert not torch.equal(alone[0], alone[1])


class Watcher(L.LightningModule):
    """Takes batches and learns nothing."""

    patch_size = 14

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.shapes: set[torch.Size] = set()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.index.tolist())
        self.shapes.add(batch.image.shape)
        return self.weight * batch.image.float().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.shapes.add(batch.image.shape)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_under_a_trainer(bottle: Path, tmp_path: Path) -> None:
    options = {"max_epochs": 3, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"default_root_dir": tmp_path, "enable_checkpointing": False, "accelerator": "cpu"}
    data, models = AnomalyDataModule(MVTec(bottle), image_size=20, batch_size=4), [Watcher(), Watcher()]
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
def test_command_line(bottle: Path, name: str) -> None:
    config = parse(f"--data.source={name}", "--data.source.root", str(bottle), "--data.image_size=[32,48]")
    assert config.data.source.init_args.root == bottle and config.data.image_size == (32, 48)
    size = ("--data.image_size", "null")
    assert parse(f"--data.source={name}", f"--data.source.root={bottle}", *size).data.image_size is None


def test_yaml_and_back(bottle: Path, tmp_path: Path) -> None:
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    one_of = {"class_path": "albumentations.OneOf", "init_args": {"transforms": [flip], "p": 0.3}}
    source = {"class_path": "lit_ad.data.Folder", "init_args": {"nominal": "train/good", "root": str(bottle)}}
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"source": source, "image_size": 32, "augment": [flip, one_of]}))
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(AnomalyDataModule, "data")
    config = parser.parse_args([f"--data={file}"])
    again = parser.parse_object(yaml.safe_load(parser.dump(config)))
    data = getattr(parser, "instantiate", parser.instantiate_classes)(again).data  # by jsonargparse's version
    assert [type(t) for t in data.augment.compose.transforms] == [A.HorizontalFlip, A.OneOf]
    data.setup("fit")
    assert len(data.listed["train"]) == 8


def test_prepare_data_makes_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "TEXTURES", {"brick": 1.0})
    AnomalyDataModule(Demo(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [demo.VERSION]


def test_images_of_every_size(shared: Path) -> None:
    data = AnomalyDataModule(MVTec(shared / "data" / "magnetic_tile"), image_size=None, batch_size=4, num_workers=0)
    batch = next(iter(data.test_dataloader()))
    assert len(set(batch.size)) > 1 and all(m.shape == s for m, s in zip(batch.mask, batch.size, strict=True))
    with pytest.raises(ValueError, match="training images of different sizes"):
        next(iter(data.train_dataloader()))


def test_a_mask_of_another_size_is_found_before_training(bottle: Path) -> None:
    mask = next((bottle / "ground_truth").rglob("*.png"))
    Image.new("L", (3, 5), 255).save(mask)
    with pytest.raises(ValueError, match=f"mask of another size: {mask} is 5x3"):
        AnomalyDataModule(MVTec(bottle), image_size=16).setup("fit")
