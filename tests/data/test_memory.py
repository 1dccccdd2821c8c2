"""Images that do not fit the memory of the machine are refused before the system ends the process."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.memory import is_worth_caching, largest_size
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.data.loaded import module


def test_a_batch_with_more_pixels_than_memory_is_refused(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before the system kills the process. The memory of the machine is read from the system."""
    with pytest.raises(UserError) as caught:
        AnomalyDataModule(MVTec(bottle), View(1_000_000), batch_size=1)
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert str(caught.value) == (
        "the pixels of 1 image of 1000000x1000000 at once take 11175.9 GiB, and this machine has "
        f"{have:.1f} GiB: lower model.view.image_size, "
        "data.batch_size or data.loading.eval_batch_size, or set model.view.tile"
    )
    monkeypatch.setattr("lit_ad.data.memory.available_memory", lambda: 24 * 2**30)
    cases: list[tuple[View, dict[str, Any]]] = [(View(20_000), {}), (View((20_000, 20_000)), {"batch_size": 6})]
    for view, batches in [*cases, (View(None), {})]:
        if view.size is None:
            AnomalyDataModule(MVTec(bottle), view, **batches)
            continue
        with pytest.raises(UserError, match="of 20000x20000 at once take"):
            AnomalyDataModule(MVTec(bottle), view, **batches)
    with pytest.raises(UserError, match="8 images of 20000x20000"):
        AnomalyDataModule(MVTec(bottle), View(20_000), batch_size=1, loading=Loading(eval_batch_size=8))
    # The model may still need too much; another check finds that.
    AnomalyDataModule(MVTec(bottle), View(20_000), batch_size=1)
    AnomalyDataModule(MVTec(bottle), View(20_000, tile=256))  # only tiles of one image are in memory
    with pytest.raises(UserError, match="32 images of 20000x20000"):
        AnomalyDataModule(MVTec(bottle), View(20_000, tile=256), loading=Loading(eval_batch_size=32))
    with pytest.raises(UserError, match="32 images of 20000x20000"):
        AnomalyDataModule(MVTec(bottle), View(20_000, tile=20_000))
    monkeypatch.setattr("lit_ad.data.memory.available_memory", lambda: None)  # a system that does not report its memory
    AnomalyDataModule(MVTec(bottle), View(20_000))


@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_a_batch_of_the_largest_image_that_exceeds_memory_is_refused(
    bottle: Path, write: Write, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image keeps its own size here."""
    samples = MVTec(bottle).samples()
    largest = write("wide/large.png", (300, 200))
    shutil.copy(largest, next(s.image for s in samples if s.split == "test" and s.label == 0))
    monkeypatch.setattr("lit_ad.data.memory.available_memory", lambda: 2 * 300 * 200 * 12 - 1)
    path = largest.parent if stage == "predict" else None
    data = AnomalyDataModule(
        MVTec(bottle), View(None), batch_size=1, loading=Loading(eval_batch_size=2), predict_path=path
    )
    with pytest.raises(UserError, match="2 images of 300x200 at once take"):
        data.setup(stage)
    AnomalyDataModule(MVTec(bottle), View(None), batch_size=1, predict_path=path, loading=Loading(inspect=False)).setup(
        stage
    )
    tiles = AnomalyDataModule(
        MVTec(bottle), View(None, tile=32), batch_size=1, loading=Loading(eval_batch_size=9, inspect=False)
    )
    # The whole images are in memory as uint8 before they become tiles.
    with pytest.raises(UserError, match="9 images of 300x200 at once take"):
        tiles.setup("test")


def test_unreadable_images_do_not_count_for_the_largest_size(write: Write) -> None:
    (bad := write("bad.png")).write_bytes(b"no image")
    paths = [write("a.png", (10, 40)), bad, write("b.png", (30, 20))]
    assert largest_size(Sample(path, 0) for path in paths) == (30, 20)
    assert largest_size([]) == largest_size([Sample(bad, 0)]) == (0, 0)


def test_images_are_worth_caching_where_all_of_them_fit_the_limit(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is that of all images as the network sees them: in one size, or in tiles at their own size."""
    samples = [Sample(write("a.png", (10, 40)), 0), Sample(write("b.png", (30, 20)), 0)]
    for view, size in ((View(16), 3 * 2 * 16 * 16), (View(None, tile=8), 3 * (10 * 40 + 30 * 20))):
        monkeypatch.setattr("lit_ad.data.memory.CACHE_BYTES", size)
        assert is_worth_caching(samples, view)
        monkeypatch.setattr("lit_ad.data.memory.CACHE_BYTES", size - 1)
        assert not is_worth_caching(samples, view)
    assert not is_worth_caching([], View(None))


def test_images_are_cached_by_default_only_where_the_cache_is_small(
    bottle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(view: View, **kwargs: object) -> list[bool]:
        data = module(bottle, view, **kwargs)
        caches = []
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            assert isinstance(loader.dataset, AnomalyDataset)
            caches.append(loader.dataset.cache)
        return [cache is not None for cache in caches]

    assert cached(View(16)) == [True, True, False]
    assert cached(View(16), cache_images=False) == [False, False, False]
    assert cached(View(None)) == [False, False, False]
    assert cached(View(None), cache_images=True) == [True, True, False]
    assert cached(View(None, tile=16)) == [True, True, False]
    monkeypatch.setattr("lit_ad.data.memory.CACHE_BYTES", 10 * 16 * 16 * 3 - 1)
    assert cached(View(16)) == [False, False, False]
