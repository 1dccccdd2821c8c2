"""The one DataModule: splits, reads and loads the samples of any source."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from lit_ad.batch import Batch, Sample
from lit_ad.data.audit.inspection import inspect_samples
from lit_ad.data.augment import Augment, Augmentation, load_transforms, smallest_inputs
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.loading import (
    Share,
    Shuffle,
    ThreadLoader,
    TrainLoader,
    check_memory,
    collate,
    collate_equal,
    one_thread,
)
from lit_ad.data.record import DataRecord
from lit_ad.data.sources.images import Images
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import Splits, list_splits
from lit_ad.errors import UserError
from lit_ad.features.dataset import Items, SplitFeatures
from lit_ad.files import resolve_path
from lit_ad.image.pixels import Size, split_page, upright_size
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View
from lit_ad.machine import cores
from lit_ad.names import tell

CACHE_BYTES = 2**30  # what cache_images takes of the RAM without being asked


class AnomalyDataModule(L.LightningDataModule):
    """Nominal images to train and validate on, all kinds to test on, as batches of uint8 pixels.

    Validation takes the images that the source lists for it; in each category without, it is cut from the nominal
    training images. It never sees a test image.

    Args:
        source: Where the images are: lit_ad.data.MVTec, Folder, Demo, or your own Source.
        view: What the network sees of them: the model's own, `model.view`.
        batch_size: In training, on each device; tiles, where the view has them.
        eval_batch_size: Images in validation, test and predict. None: batch_size, or with tiles 1.
        balanced: In an epoch, as many images of each category: of small ones repeatedly, of large ones a part, which is
            another in each epoch. An epoch is as long as without.
        drop_last: Leave out the last batch of an epoch, where it is smaller than the others, as Dinomaly's authors do.
        val_fraction: Part of the nominal training images that validates, where the source lists no images for that.
        split_seed: Of that choice.
        augment: Albumentations transforms for training, each a class_path with init_args, or a file that
            albumentations' A.save wrote; they must keep uint8.
        train_tiles: Train on "all" tiles of all images, or on as many "random" crops, others in each epoch.
        cache_images: Keep decoded and resized training and validation images in RAM (3 bytes a pixel, once in each
            training process). None: if the view has a size or tiles, and all take less than 1 GiB.
        num_workers: Processes that load. None: none if images are cached and not augmented, else one less than there
            are cores for this process, at most 4; where a CPU validates, tests or predicts, threads instead.
        predict_path: Folder of images, or an image, for predict. None: predict runs over the test images.
        unrelated: Folder of photographs of anything, at any depth, for methods whose students must not learn them
            (EfficientAD): one beside each training image, another in each epoch.
        inspect: Before training, look at all files: tell what there is, warn of what looks wrong, and refuse test
            images that cannot be read.
    """

    def __init__(
        self,
        source: Source,
        view: View,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        balanced: bool = False,
        drop_last: bool = False,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        augment: list[Augmentation] | Path | None = None,
        train_tiles: Literal["all", "random"] = "all",
        cache_images: bool | None = None,
        num_workers: int | None = None,
        predict_path: Path | None = None,
        unrelated: Path | None = None,
        inspect: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction is {val_fraction}, but it must lie between 0 and 1")
        if batch_size < 1 or (eval_batch_size or 1) < 1:
            raise UserError("data.batch_size and data.eval_batch_size must be 1 or more")
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}, but it must be 0 or more, or null")
        self.source, self.view = source, view
        self.predict_path = None if predict_path is None else resolve_path(predict_path)
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or (1 if view.tile else batch_size)
        self.balanced, self.drop_last = balanced, drop_last
        if isinstance(augment, str | Path):
            augment = load_transforms(resolve_path(augment))
        self.augment = Augment(augment) if augment else None
        self.train_tiles = train_tiles
        self.cache_images, self.num_workers = cache_images, num_workers
        self.unrelated, self.inspect = None if unrelated is None else resolve_path(unrelated), inspect
        if view.size is not None:
            self._check_memory(view.size)
        # What callbacks find out about a run before its loaders are made. `setup`, with which a run begins, clears it.
        self.features = SplitFeatures()  # of the training: FeatureCache
        self.already_predicted: frozenset[str] = frozenset()  # image files that predict leaves out: Evaluation
        self._datasets: dict[str, AnomalyDataset] = {}

    # What there is.

    @cached_property
    def splits(self) -> Splits:
        """The samples of each split. Raises UserError if they cannot be trained on."""
        return list_splits(self.source, self.val_fraction, self.split_seed)

    @cached_property
    def record(self) -> DataRecord:
        """What checkpoints say of the data."""
        source = type(self.source)
        settings = {
            "data.source": f"{source.__module__}.{source.__qualname__}",
            "data.val_fraction": self.val_fraction,
            "data.split_seed": self.split_seed,
            "data.batch_size": self.batch_size,
            "data.balanced": self.balanced,
            "data.drop_last": self.drop_last,
            "data.train_tiles": self.train_tiles,
            "data.augment": str(self.augment.compose) if self.augment else None,
            "data.unrelated": str(self.unrelated) if self.unrelated else None,
            "seed_everything": seed(),
            "processes": self._place[0],
        }
        return DataRecord(self.splits, settings)

    def state_dict(self) -> dict[str, Any]:
        """Return what a training goes on from; nothing where only unlabelled images were looked at."""
        return self.record.to_dict() if "splits" in vars(self) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if a training that goes on would hold out images that it was trained on."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            for line in self.record.go_on(state_dict):
                rank_zero_info(f"Going on with other settings: {line}")

    @property
    def random_setting(self) -> str | None:
        """The setting that shows another image in every epoch, which cannot be cached; None: there is none."""
        if self.augment is not None:
            return "data.augment"
        return "data.train_tiles: random" if self.view.tile and self.train_tiles == "random" else None

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        self.features, self.already_predicted = SplitFeatures(), frozenset()  # an earlier run had another model
        if stage != "predict" or self.predict_path is None:  # unlabelled images need no training images around
            _ = self.splits
        if stage in (None, "fit"):
            _ = self._unrelated_images  # every process lists them, so that all of them end if there are none
            if self.augment is not None:
                for size in smallest_inputs(self.view, self.splits.train):
                    self.augment.try_out(size, alike=self.batch_size > 1)
        if self.inspect and stage in (None, "fit", "test"):
            self.inspect = False  # once in a run
            self._report(decode=stage != "test")
        if self.view.size is None:
            splits = [self.to_predict()] if stage == "predict" else vars(self.splits).values()
            self._check_largest([sample for split in splits for sample in split])

    # What is loaded.

    def train_dataloader(self) -> DataLoader[Batch]:
        images = self._dataset("train", self.splits.train)
        sampler = Shuffle(images, *self._place, images.seed, self.balanced)
        if self.drop_last and len(sampler) < self.batch_size:
            raise UserError(
                f"data.drop_last leaves nothing to train on: of {len(sampler)} images there is no batch of "
                f"{self.batch_size}; lower data.batch_size, or set data.drop_last to false"
            )
        more: dict[str, Any] = {"collate_fn": collate_equal, "drop_last": self.drop_last}
        return self._loader(self._items("train"), self.batch_size, TrainLoader, sampler=sampler, **more)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._share_loader(self._items("val"), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        if not self.splits.test:
            raise UserError(f"nothing to test on: the {type(self.source).__name__} source lists no test images")
        return self._share_loader(self._dataset("test", self.splits.test), self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        dataset = self._dataset("test" if self.predict_path is None else "predict", self.to_predict())
        left = [i for i, sample in enumerate(dataset.samples) if str(sample.image) not in self.already_predicted]
        return self._loader(dataset, self.eval_batch_size, sampler=Share(left, *self._place))

    def to_predict(self) -> list[Sample]:
        """The images of predict: those of its folder, or of the test."""
        return self.splits.test if self.predict_path is None else Images(self.predict_path).samples()

    def nominal_dataloader(self) -> DataLoader[Batch]:
        """The training images once, in order, without augmentation: this process's share of them, none twice."""
        return self._share_loader(self._items("train", plain=True), self.batch_size)

    def held_out_dataloader(self) -> DataLoader[Batch]:
        """The validation images in the same way: by tiles, where there are any; this process's share."""
        return self._share_loader(self._items("val", plain=True), self.batch_size)

    def cacheable(self, needs_pixels: bool) -> Iterator[tuple[str, DataLoader[Batch], dict[str, Any]]]:
        """Each split whose features may be kept: its name, a loader of all of it in order, and what its pixels depend
        on. Tiles of validation images are cut by the model, and are not among them."""
        for split in ("train", "val") if self.view.tile is None else ("train",):
            dataset = self._dataset(split, getattr(self.splits, split))
            if needs_pixels or split == "val":
                self._fill(dataset)  # for later, too
            found = [(str(s.image.absolute()), split_page(s.image)[0].stat()) for s in dataset.samples]
            files = [(name, of.st_size, of.st_mtime_ns) for name, of in found]
            view = {name: value for name, value in self.view.to_dict().items() if name != "tile_batch"}
            yield split, self._loader(dataset, self.batch_size), {"files": files, "view": view}

    # How it is loaded.

    def _report(self, decode: bool) -> None:
        """Print what there is. Raises UserError, on every process, if it cannot be trained or tested on."""
        errors: list[str] = []
        if self._place[1] == 0:
            report = inspect_samples(self.splits, cores(), decode, progress=True, view=self.view)
            report.add_source_remarks(self.source)
            if any(sample.split == "validation" for sample in self.splits.val):
                report.text += (
                    "\n  held out are the validation images of the data set, so data.val_fraction is not used"
                )
            if decode and self._unrelated_images is not None:
                report.text += "".join(f"\n  in data.unrelated, {remark}" for remark in self._unrelated_images.remarks)
            errors = report.errors
            tell(str(report))
        if self.trainer is not None:
            errors = self.trainer.strategy.broadcast(errors)
        if errors:
            raise UserError("; ".join(errors))

    @cached_property
    def _unrelated_images(self) -> Unrelated | None:
        return None if self.unrelated is None else Unrelated(self.unrelated)

    def _check_largest(self, samples: list[Sample]) -> None:
        """`_check_memory` of the largest of images that the network sees in their own size."""
        largest = (0, 0)
        for sample in samples:
            with suppress(UserError):  # that it cannot be read is told by who reads it
                largest = max(largest, upright_size(sample.image), key=math.prod)
        self._check_memory(largest)

    def _check_memory(self, size: Size) -> None:
        """Raises UserError if images of this size, of which the network sees all or tiles, are too many at once."""
        if self.view.tile is None:
            check_memory(max(self.batch_size, self.eval_batch_size), size)
        else:
            check_memory(self.batch_size, (self.view.tile, self.view.tile))
            check_memory(self.eval_batch_size, size, bytes_each=3)  # as uint8: it is their tiles that become float

    @property
    def _place(self) -> tuple[int, int]:
        """Processes that train together, and which of them this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _items(self, split: str, plain: bool = False) -> Items:
        """The items of "train" or "val", with features where there are some; plain: in order, by tiles where the view
        has them, and not augmented."""
        dataset = self._dataset(split, getattr(self.splits, split))
        if self.features.add_to(dataset, split).has_pixels:
            self._fill(dataset)
        if plain:
            tiles = self._tiles(dataset.samples) if self.view.tile else None
            dataset = AnomalyDataset(dataset.samples, self.view, tiles=tiles, cache=dataset.cache)
        return self.features.add_to(dataset, split)

    def _dataset(self, split: str, samples: list[Sample]) -> AnomalyDataset:
        made = self._datasets.get(split)
        if made is None or made.samples != samples or made.view != self.view:
            train = split == "train"
            tiles = self._tiles(samples, self.train_tiles == "random") if train and self.view.tile else None
            unrelated = self._unrelated_images if train else None
            made = AnomalyDataset(samples, self.view, self.augment if train else None, seed(), tiles, unrelated)
            self._datasets[split] = made
        return made

    def _tiles(self, samples: list[Sample], random: bool = False) -> Tiles:
        grid = self.view.grid((1, 1))
        assert grid is not None
        sizes = [self.view.content(upright_size(sample.image)) for sample in samples]
        return Tiles(sizes, grid.tile, grid.overlap, random)

    def _fill(self, dataset: AnomalyDataset) -> None:
        """Keep the images of a dataset in RAM, if that is wanted."""
        if dataset.cache is None and self._caches_images:
            dataset.fill_cache(cores())

    @property
    def _caches_images(self) -> bool:
        size = self.view.size
        if self.cache_images is not None or (size is None and self.view.tile is None):
            return bool(self.cache_images)
        samples = [*self.splits.train, *self.splits.val]
        pixels = sum(math.prod(size or upright_size(sample.image)) for sample in samples)
        return 3 * pixels <= CACHE_BYTES and not getattr(self.trainer, "fast_dev_run", False)

    def _share_loader(self, dataset: Items, batch_size: int) -> DataLoader[Batch]:
        """A loader of this process's share of the items."""
        return self._loader(dataset, batch_size, sampler=Share(range(len(dataset)), *self._place))

    def _loader(
        self, dataset: Items, batch_size: int, loader: type[DataLoader[Batch]] = DataLoader, **kwargs: Any
    ) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            here = max(1, self.trainer.num_devices) if self.trainer else 1
            workers = 0 if dataset.is_in_memory or cores() // here < 2 else min(4, suggested_max_num_workers(here))
            if workers and loader is DataLoader and self.trainer and self.trainer.strategy.root_device.type == "cpu":
                workers, loader = 0, ThreadLoader
        return loader(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size,  # by name, or Lightning cannot remake the loader for predict
            **{"collate_fn": collate, **kwargs},
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
            generator=torch.Generator().manual_seed(seed()),  # or each epoch draws from the model's randomness
        )


def seed() -> int:
    """seed_everything's, as Lightning's own samplers read it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
