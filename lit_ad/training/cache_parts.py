"""Find the items of a training whose features can be cached, and describe everything that the features depend on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from lit_ad.batch import Sample
from lit_ad.data.dataset import AnomalyDataset, find_rows, lay_out_tiles
from lit_ad.image.pixels import split_page
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.detector_file import qualified_name
from lit_ad.training.nominal_images import data_of


@dataclass(frozen=True)
class Part:
    """Items whose features are to be cached."""

    rows: Mapping[str, Sequence[int] | None]  # indices of the items of "train" and of "val"; None: all items
    loader: Any  # loads all items, in order
    about: dict[str, Any]  # everything that the features depend on, as JSON values

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.loader.dataset)


def list_parts(trainer: L.Trainer, method: Method) -> Iterator[Part]:
    """Yield the parts of a training whose features can be cached."""
    overridden = type(method).describe is not Method.describe
    made_by = {
        "describe": qualified_name(type(method)) if overridden else "teacher",
        "teachers": [teacher.identity for teacher in method.teachers().values()],
        "precision": str(trainer.precision),
    }
    data = data_of(trainer, method)
    for rows, loader in find_cacheable(data, method.needs_pixels):
        if "train" in rows or trainer.enable_validation:
            yield Part(rows, loader, {**made_by, **describe_pixels(loader.dataset.samples, data.view)})


def find_cacheable(data: Any, needs_pixels: bool) -> Iterator[tuple[dict[str, Sequence[int] | None], Any]]:
    """Yield for each part the indices of the items of each split (None: all), and a loader of all items in order.

    Tiles of validation images are not cached, because the model cuts them. With folds, all nominal images are one part,
    because each fold trains on other images of it.
    """
    splits = [split for split in ("train", "val") if split == "train" or (data.view.tile is None and data.splits.val)]
    for split in splits:
        if needs_pixels or split == "val":
            data.keep_in_memory(data.images(split))  # the training reads these images again
        if data.split.folds is None:
            yield {split: None}, data.loaders.plain(data.images(split), data.batch_size)
    if data.split.folds is not None:
        samples = sorted([*data.splits.train, *data.splits.val], key=lambda sample: str(sample.image))
        nominal = AnomalyDataset(samples, data.view, tiles=lay_out_tiles(samples, data.view))
        rows: dict[str, Sequence[int] | None] = {split: find_rows(data.images(split), nominal) for split in splits}
        yield rows, data.loaders.plain(nominal, data.batch_size)


def describe_pixels(samples: Sequence[Sample], view: View) -> dict[str, Any]:
    """Return everything that the network's inputs depend on: path, size (bytes) and time of modification (ns) of the
    files, and the view."""
    files = [(str(sample.image.absolute()), split_page(sample.image)[0].stat()) for sample in samples]
    seen = {name: value for name, value in view.to_dict().items() if name not in ("tile_batch", "mm_per_pixel")}
    return {"files": [(name, file.st_size, file.st_mtime_ns) for name, file in files], "view": seen}
