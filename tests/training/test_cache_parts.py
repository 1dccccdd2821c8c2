"""Which items can have cached features."""

from pathlib import Path

import pytest
import torch

from lit_ad.data import AnomalyDataModule, Loading, MVTec, Split
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.image.view import View
from lit_ad.training.cache_parts import find_cacheable
from tests.optional import unwrap


@pytest.mark.parametrize("view", [View(16), View(None, tile=32, overlap=0)])
def test_features_of_all_nominal_images_serve_every_fold(view: View, images: Path) -> None:
    """Each split has its own rows of the same items or tiles."""
    whole: set[tuple[Path, ...]] = set()
    for number in (None, 0, 1):
        data = AnomalyDataModule(MVTec(images), view, loading=Loading(num_workers=0), split=Split(folds=2, fold=number))
        ((rows, loader),) = find_cacheable(data, needs_pixels=False)
        dataset = loader.dataset
        assert isinstance(dataset, AnomalyDataset)
        whole.add(tuple(sample.image for sample in dataset.samples))
        assert list(rows) == (["train"] if view.tile or number is None else ["train", "val"])
        for split, numbers in rows.items():
            items = data.images(split)
            assert len(unwrap(numbers)) == len(items) > 0
            for i, row in enumerate(unwrap(numbers)):
                assert torch.equal(unwrap(items[i].pixels), unwrap(dataset[row].pixels))
    assert len(whole) == 1
