"""The DataModule: it splits, reads and loads the samples of any source."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from lit_ad.batch import Batch, Sample
from lit_ad.data.audit.inspection import print_summary
from lit_ad.data.augment import Augmentation, make_augment
from lit_ad.data.corrupt import Corruption
from lit_ad.data.dataset import AnomalyDataset, SplitDatasets
from lit_ad.data.light import Kind
from lit_ad.data.loading import Loaders, Loading, place_in, run_seed
from lit_ad.data.memory import check_batches, largest_size
from lit_ad.data.record import DataRecord
from lit_ad.data.sources.images import Images
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import Split, Splits, list_splits
from lit_ad.distributed import ask_first_process
from lit_ad.errors import UserError, check_number
from lit_ad.features.dataset import Items, SplitFeatures
from lit_ad.files import resolve_path
from lit_ad.image.view import View
from lit_ad.machine import cores


class AnomalyDataModule(L.LightningDataModule):
    """Loads nominal images for training and validation, and all images for the test, as batches of uint8 pixels.

    Validation takes the source's own validation images. In a category without any, a part of the nominal training
    images is held out. Test images never take part in validation.

    Args:
        source: The data set: lit_ad.data.MVTec, Folder, Demo, or your own Source.
        view: How images become network inputs: the model's own view, `model.view`.
        batch_size: Images in a training batch, on each device; tiles if the view has some.
        augment: Augmentation of training images: albumentations' transforms, each a class_path with init_args; a file
            that albumentations' A.save wrote; or a kind of lit_ad.data.Light, such as light, to change the lighting in
            every epoch. The transforms must keep uint8.
        unrelated: Folder of any photographs, for methods whose student must not learn them (EfficientAD). Photographs
            in subfolders count too. Each training image gets one, another in each epoch.
        corrupt: Makes defects for methods that learn from them: lit_ad.data.Perlin or CutPaste. Each training image
            gets a corrupted copy, with another defect in each epoch; data.unrelated gives textures.
        predict_path: Folder of images, or one image, for predict. None: the test images.
        loading: Options for loading images.
        split: Options that decide which nominal images are used for training, and which are held out.
    """

    def __init__(
        self,
        source: Source,
        view: View,
        batch_size: int = 32,
        augment: list[Augmentation] | Kind | Path | None = None,
        unrelated: Path | None = None,
        corrupt: Corruption | None = None,
        predict_path: Path | None = None,
        loading: Loading = Loading(),
        split: Split = Split(),
    ) -> None:
        super().__init__()
        check_number("data.batch_size", batch_size, least=1)
        self.source, self.view, self.batch_size, self.loading, self.split = source, view, batch_size, loading, split
        self.eval_batch_size = loading.eval_batch_size or (1 if view.tile else batch_size)
        self.predict_path = None if predict_path is None else resolve_path(predict_path)
        self.augment, photographs = make_augment(augment), None if unrelated is None else resolve_path(unrelated)
        self._datasets = SplitDatasets(self.augment, photographs, corrupt, loading.train_tiles == "random")
        if view.size is not None:
            check_batches(view, view.size, batch_size, self.eval_batch_size)
        # Callbacks set these before the loaders are made. `setup`, with which a run begins, clears them.
        self.features = SplitFeatures()  # cached features of the training; set by FeatureCache
        self.already_predicted: frozenset[str] = frozenset()  # image files that predict leaves out; set by Evaluation
        self._inspected = False

    @cached_property
    def splits(self) -> Splits:
        """The samples of each split. Raises UserError if they cannot be trained on."""
        return list_splits(self.source, self.split)

    @cached_property
    def record(self) -> DataRecord:
        """The record of the data in checkpoints."""
        source = f"{type(self.source).__module__}.{type(self.source).__qualname__}"
        settings = {"data.source": source} | self.split.choices() | {"data.batch_size": self.batch_size}
        settings |= self.loading.choices() | self._datasets.choices()
        settings |= {"seed_everything": run_seed(), "processes": place_in(self.trainer).processes}
        return DataRecord(self.splits, settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the data; empty if the run has only read unlabelled images."""
        return self.record.to_dict() if "splits" in vars(self) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Print what has changed since the checkpoint. Raises UserError if the new split tests trained images."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            for line in self.record.go_on(state_dict):
                rank_zero_info(f"Going on with other settings: {line}")

    @property
    def random_setting(self) -> str | None:
        """The key of the setting that changes training images in every epoch; None if features can be cached."""
        return self._datasets.random_setting(self.view)

    def to_predict(self) -> list[Sample]:
        """Return the images to predict: those of `predict_path`, or the test images."""
        return self.splits.test if self.predict_path is None else Images(self.predict_path).samples()

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """List the samples, check them, and print a summary. Raises UserError if the stage cannot run with them."""
        self.features, self.already_predicted = SplitFeatures(), frozenset()  # an earlier run may have another model
        if stage != "predict" or self.predict_path is None:  # a predict_path needs no training images
            _ = self.splits
        if stage in (None, "fit"):
            self._datasets.check_training(self.splits.train, self.view, self.batch_size)
        if self.loading.inspect and not self._inspected and stage in (None, "fit", "test"):
            self._inspected = True  # once in a run
            what = (self.splits, self.source, self.view, self._datasets.unrelated, stage != "test")
            if errors := ask_first_process(self.trainer, lambda: print_summary(*what)):
                raise UserError("; ".join(errors))
        if self.view.size is None:
            samples = self.to_predict() if stage == "predict" else chain(*vars(self.splits).values())
            check_batches(self.view, largest_size(samples), self.batch_size, self.eval_batch_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loaders.train(self.images("train"), self._items("train"), self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loaders.share(self._items("val"), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        if not self.splits.test:
            raise UserError(f"nothing to test on: the {type(self.source).__name__} source lists no test images")
        return self.loaders.share(self.images("test"), self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        images = self.images("test" if self.predict_path is None else "predict")
        left = [i for i, sample in enumerate(images.samples) if str(sample.image) not in self.already_predicted]
        return self.loaders.share(images, self.eval_batch_size, left)

    def nominal_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of this process's share of the training images: each once, in order, without augmentation."""
        return self.loaders.share(self._items("train", plain=True), self.batch_size)

    def held_out_dataloader(self, numbers: Sequence[int] | None = None) -> DataLoader[Batch]:
        """Return the same for the validation images, or their tiles. `numbers`: indices of the images; None: all."""
        items = self._items("val", plain=True)
        if numbers is not None and items.tiles is not None:
            numbers = items.tiles.numbers_of_images(numbers)
        return self.loaders.share(items, self.batch_size, numbers)

    @property
    def loaders(self) -> Loaders:
        """The maker of this process's loaders."""
        return Loaders(self.loading, place_in(self.trainer), run_seed())

    def images(self, split: str) -> AnomalyDataset:
        """Return the images of "train", "val", "test" or "predict", as a loader takes them."""
        samples = self.to_predict() if split == "predict" else getattr(self.splits, split)
        return self._datasets.dataset(split, samples, self.view, run_seed())

    def keep_in_memory(self, images: AnomalyDataset) -> None:
        """Decode the images of a dataset once for all epochs, if loading.cache_images or its default says so."""
        for_once = getattr(self.trainer, "fast_dev_run", False)
        if images.cache is None and self.loading.keeps_in_memory(self.splits, self.view, for_once):
            images.fill_cache(cores())

    def _items(self, split: str, plain: bool = False) -> Items:
        """Return the items of "train" or "val", with cached features if there are some. `plain`: in order and not
        augmented, see AnomalyDataset.plain."""
        images = self.images(split)
        if self.features.add_to(images, split).has_pixels:
            self.keep_in_memory(images)
        return self.features.add_to(images.plain() if plain else images, split)
