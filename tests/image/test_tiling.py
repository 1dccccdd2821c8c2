"""Tiles cover an image and their maps join without a seam, for tensors and arrays, as plain slicing and NumPy's
reflection do."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lit_ad.batch import Batch, Prediction, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError
from lit_ad.image.tiling import Grid, Tiles, compute_blend_weights, list_tile_starts, reflect
from lit_ad.image.view import View
from lit_ad.methods import STFPM, Transformaly
from lit_ad.methods.base import Method
from lit_ad.methods.network import as_images
from lit_ad.teachers import Teacher
from tests.judging import predict_batch
from tests.optional import unwrap

SIZES = [(64, 64), (65, 64), (100, 130), (16, 200), (10, 7), (33, 1), (1, 1)]
TILES = [(16, 0), (16, 1), (16, 5), (16, 8), (40, 10)]
KINDS: dict[str, Callable[[Any], Any]] = {"tensor": torch.as_tensor, "array": np.asarray}  # each takes the other's
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def same_kind(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one.dtype == other.dtype


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize(("tile", "overlap"), TILES)
def test_tiles_cover_with_the_overlap_asked_for(length: int, tile: int, overlap: int) -> None:
    first = list_tile_starts(length, tile, overlap)
    assert first[0] == 0 and first[-1] == max(0, length - tile)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(first))
    if length > tile:  # one tile less would not do
        assert (len(first) - 1) * (tile - overlap) + overlap < length


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "overlap"), TILES)
@kinds
def test_a_map_that_is_cut_and_stitched_stays_equal(
    size: tuple[int, int], tile: int, overlap: int, kind: Callable[[Any], Any]
) -> None:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    grid = Grid(size, tile, overlap)
    for values in (np.full(size, 3.0), 0.5 * y + 2 * x, np.random.default_rng(0).normal(size=size)):
        image = kind(values[None].astype(np.float32))
        batches = list(grid.cut_batches(image, 3))
        assert all(len(batch) <= 3 and batch.shape[1:] == (1, tile, tile) for batch in batches)
        assert sum(map(len, batches)) == len(grid)
        stitched = grid.stitch(iter(batches))
        assert same_kind(stitched, image) and stitched.shape == (1, 1, *size)
        np.testing.assert_allclose(stitched, image[None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_tensors_and_arrays_give_equal_results(size: tuple[int, int]) -> None:
    """They are equal bit by bit: a detector without torch gives the numbers of the evaluation in training."""
    image = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.uint8)
    grid = Grid(size, 16, 5)
    for ours, theirs in zip(grid.cut_batches(torch.from_numpy(image), 4), grid.cut_batches(image, 4), strict=True):
        assert ours.dtype == torch.uint8 and theirs.dtype == np.uint8 and np.array_equal(ours, theirs)
    maps = np.random.default_rng(1).normal(size=(len(grid), 1, 16, 16)).astype(np.float32)
    stitched = grid.stitch(iter(torch.from_numpy(maps).split(4)))
    assert np.array_equal(stitched, grid.stitch(iter(np.split(maps, range(4, len(maps), 4)))))


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_maps_in_half_precision_are_blended_in_float32(dtype: torch.dtype, precision: float) -> None:
    image = torch.randn(1, 100, 130)
    grid = Grid((100, 130), 16, 5)
    stitched = grid.stitch(batch.to(dtype) for batch in grid.cut_batches(image, 3))
    assert stitched.dtype == torch.float32
    torch.testing.assert_close(stitched, image[None], rtol=precision, atol=1e-6)
    whole = grid.stitch(grid.cut_batches(image.to(dtype), 3))  # half before it is cut: nothing more is lost
    torch.testing.assert_close(whole, image[None].to(dtype).float(), rtol=1e-5, atol=1e-5)


@kinds
def test_tiles_that_disagree_are_blended_smoothly(kind: Callable[[Any], Any]) -> None:
    """Each tile has another value. No two neighbouring pixels differ by more than the steepest step of the weights."""
    grid = Grid((16, 88), 16, 8)
    steps = np.broadcast_to(np.arange(len(grid), dtype=np.float32)[:, None, None, None], (len(grid), 1, 16, 16)).copy()
    stitched = np.asarray(grid.stitch(kind(steps[i : i + 4]) for i in range(0, len(grid), 4)))[0, 0]
    assert np.abs(np.diff(stitched, axis=1)).max() < 0.4 and np.abs(np.diff(stitched, axis=0)).max() < 1e-6
    assert stitched[0, 0] == 0 and stitched[0, -1] == len(grid) - 1
    hard = Grid((16, 88), 16, 0)
    assert len(hard) == 6  # 88 is no multiple of 16


@kinds
def test_stitching_does_not_change_the_maps(kind: Callable[[Any], Any]) -> None:
    """This also holds if one tile is the whole map."""
    for size in ((16, 16), (10, 12), (20, 16)):
        grid = Grid(size, 16, 4)
        maps = kind(np.full((len(grid), 1, 16, 16), 2.0, np.float32))
        stitched = grid.stitch(iter([maps]))
        stitched[:] = 5.0
        assert float(maps.min()) == float(maps.max()) == 2


def test_the_outermost_quarter_of_an_overlap_has_no_weight() -> None:
    weight = compute_blend_weights(32, 16, before=True, after=False)
    assert weight[:4].tolist() == [0] * 4 and weight[12:].tolist() == [1] * 20 and (np.diff(weight) >= 0).all()
    assert np.array_equal(compute_blend_weights(32, 16, False, True), weight[::-1])


@pytest.mark.parametrize("size", [(10, 7), (1, 9), (5, 1), (1, 1), (20, 20)])
@kinds
def test_reflection_matches_numpy(size: tuple[int, int], kind: Callable[[Any], Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.uint8)
    more = [(0, 0), (0, max(0, 20 - size[0])), (0, max(0, 20 - size[1]))]
    filled = reflect(kind(image), (20, 20))
    assert same_kind(filled, kind(image))
    assert np.array_equal(np.asarray(filled), np.pad(image, more, mode="reflect"))


def test_an_impossible_overlap_is_refused() -> None:
    with pytest.raises(UserError, match=r"view.overlap must lie between 0 and half the tile of 16 pixels, not 9"):
        Grid((64, 64), 16, 9)


class Sharpness(Method):
    """A method with a zero-padded 9x9 convolution. It is wrong only within four pixels of a tile's edge."""

    def __init__(self, weights: str) -> None:
        super().__init__(View(None))
        self.teacher = Teacher("resnet10t", (1,), weights)
        self.kernel = nn.Conv2d(3, 1, 9, padding=4)

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        disagreement: Tensor = self.kernel(images)
        return disagreement

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.square().mean()

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(disagreement)


@pytest.fixture
def sharpness(resnet_file: Path) -> Sharpness:
    torch.manual_seed(0)
    return Sharpness(str(resnet_file)).eval().requires_grad_(False)


def batch_of(pixels: Tensor) -> Batch:
    n, _, height, width = pixels.shape
    return Batch(
        pixels=pixels,
        index=torch.arange(n),
        samples=[Sample(Path(f"{i}.png"), 0, split="test") for i in range(n)],
        sizes=[(height, width)] * n,
        boxes=[(0, 0, height, width)] * n,
    )


@pytest.mark.parametrize("size", [(100, 140), (64, 64), (97, 65)])
def test_stitched_equals_untiled(sharpness: Sharpness, size: tuple[int, int]) -> None:
    batch = batch_of(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    whole = predict_batch(sharpness, batch)
    assert torch.equal(unwrap(whole.score), unwrap(whole.anomaly_map).flatten(1).amax(dim=1))
    sharpness.view = View(None, tile=32, overlap=16, tile_batch=3)  # a quarter of 16 is the kernel's reach
    tiled = predict_batch(sharpness, batch)
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map)
    torch.testing.assert_close(tiled.score, whole.score)
    sharpness.view = View(None, tile=32, overlap=0, tile_batch=3)  # and without overlap there are seams
    cut = predict_batch(sharpness, batch)
    assert (unwrap(cut.anomaly_map) - unwrap(whole.anomaly_map)).abs().max() > 1e-3


def test_padding_is_neither_tiled_nor_scored(sharpness: Sharpness) -> None:
    sharpness.view = View(None, tile=32, overlap=8, tile_batch=2)
    pixels = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    alone = predict_batch(sharpness, batch_of(pixels[:1, :, 3:43, 5:60]))
    both = predict_batch(sharpness, replace(batch_of(pixels), boxes=[(3, 5, 43, 60), (0, 0, 50, 70)]))
    maps = unwrap(both.anomaly_map)
    assert maps.shape == (2, 1, 50, 70)
    torch.testing.assert_close(maps[:1, :, 3:43, 5:60], alone.anomaly_map)
    torch.testing.assert_close(unwrap(both.score)[:1], alone.score)
    outside = maps[0].clone()
    outside[:, 3:43, 5:60] = 0
    assert not outside.any()


def test_validation_loss_of_tiles_is_their_mean(sharpness: Sharpness, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {}
    monkeypatch.setattr(sharpness, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(sharpness, "_trainer", L.Trainer(logger=False, accelerator="cpu"))
    sharpness.view = View(None, tile=32, overlap=8, tile_batch=4)
    pixels = torch.randint(0, 256, (1, 3, 40, 72), dtype=torch.uint8)
    sharpness.validation_step(batch_of(pixels), 0)
    tiles = torch.stack([pixels[0, :, top : top + 32, left : left + 32] for top in (0, 8) for left in (0, 20, 40)])
    expected = sharpness.loss(sharpness.compare(as_images(tiles), []))
    torch.testing.assert_close(sharpness.val_loss.compute(), expected)


@kinds
def test_every_tile_of_every_image_comes_once(kind: Callable[[Any], Any]) -> None:
    images = [np.arange(40 * 60).reshape(1, 40, 60), np.arange(9 * 9).reshape(1, 9, 9), np.ones((1, 16, 30))]
    tiles = Tiles([(40, 60), (9, 9), (16, 30)], 16, 4)
    assert len(tiles) == 3 * 5 + 1 + 3
    cuts = [tiles.cut(kind(images[tiles.image(i)]), i, (0,)) for i in range(len(tiles))]
    assert [tiles.image(i) for i in range(len(tiles))] == [0] * 15 + [1] + [2] * 3
    assert {int(v) for cut in cuts[:15] for v in cut.flatten()} == set(range(40 * 60))
    assert np.array_equal(cuts[15][:, :9, :9], images[1]) and all(cut.shape == (1, 16, 16) for cut in cuts)
    assert all(same_kind(cut, kind(images[tiles.image(i)])) for i, cut in enumerate(cuts))


@kinds
def test_random_tiles_depend_on_their_key_and_lie_inside(kind: Callable[[Any], Any]) -> None:
    image = kind(np.arange(40 * 60).reshape(1, 40, 60))
    tiles = Tiles([(40, 60)], 16, 4, random=True)
    corners = [[int(tiles.cut(image, i, (0, epoch))[0, 0, 0]) for i in range(len(tiles))] for epoch in (0, 1, 0)]
    assert corners[0] == corners[2] != corners[1] and len(set(corners[0])) > len(tiles) // 2
    assert all(corner // 60 <= 24 and corner % 60 <= 44 for corner in corners[0])
    small = Tiles([(9, 9)], 16, 4, random=True)
    assert np.array_equal(small.cut(image[:, :9, :9], 0, (0,))[:, :9, :9], image[:, :9, :9])


# What the DataModule makes of them.


@pytest.fixture
def images_of_mixed_sizes(tmp_path: Path) -> Path:
    """A folder of images of several sizes: none is a multiple of the tile, and one is smaller than it."""
    generator = np.random.default_rng(0)
    for folder, sizes in (
        ("train/good", [(40, 70), (20, 20), (33, 90), (64, 32)]),
        ("test/good", [(50, 40), (20, 24)]),
        ("test/broken", [(35, 66)]),
    ):
        for i, size in enumerate(sizes):
            path = tmp_path / "part" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    mask = np.zeros((35, 66), np.uint8)
    mask[:5, :5] = 255
    (tmp_path / "part/ground_truth/broken").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "part/ground_truth/broken/0_mask.png")
    return tmp_path / "part"


def test_training_on_tiles_of_mixed_sizes(images_of_mixed_sizes: Path) -> None:
    data = AnomalyDataModule(MVTec(images_of_mixed_sizes), View(None, tile=32, overlap=8), batch_size=2)
    loader = data.train_dataloader()
    sizes = [Image.open(sample.image).size[::-1] for sample in data.splits.train]
    assert isinstance(loader.dataset, AnomalyDataset)
    assert len(loader.dataset) == sum(len(Grid(size, 32, 8)) for size in sizes)
    batches = list(loader)
    assert all(b.pixels.shape == (2, 3, 32, 32) and b.pixels.dtype == torch.uint8 for b in batches)
    assert all(b.boxes == [(0, 0, 32, 32)] * 2 for b in batches)
    order = [i for b in batches for i in b.index.tolist()]
    assert len(set(order)) == len(order) and order != sorted(order)


def test_random_tiles_differ_by_epoch(images_of_mixed_sizes: Path) -> None:
    made: dict[int, dict[int, Tensor]] = {}
    for _ in range(2):
        data = AnomalyDataModule(
            MVTec(images_of_mixed_sizes), View(None, tile=16), batch_size=1, loading=Loading(train_tiles="random")
        )
        loader = data.train_dataloader()
        for epoch in range(2):
            epochs = {int(b.index): b.pixels.clone() for b in loader}
            again = made.setdefault(epoch, epochs)
            assert all(torch.equal(again[i], image) for i, image in epochs.items())
    assert any(not torch.equal(made[0][i], made[1][i]) for i in made[0])


def test_evaluation_gets_whole_images(images_of_mixed_sizes: Path) -> None:
    data = AnomalyDataModule(MVTec(images_of_mixed_sizes), View(None, tile=32, tile_batch=5))
    batches = list(data.test_dataloader())
    assert [tuple(b.pixels.shape[2:]) for b in batches] == [(35, 66), (50, 40), (20, 24)]  # one at a time
    assert batches[0].masks[0].shape == (35, 66)
    (image,) = data.splits.val
    (batch,) = data.val_dataloader()
    assert batch.canvas == Image.open(image.image).size[::-1]


def test_evaluation_runs_the_views_tiles_at_once(images_of_mixed_sizes: Path, sharpness: Sharpness) -> None:
    """It runs all tiles of the grid, `tile_batch` at a time."""
    sharpness.view = View(None, tile=32, tile_batch=5)
    seen: list[torch.Size] = []
    sharpness.kernel.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    for batch in AnomalyDataModule(MVTec(images_of_mixed_sizes), sharpness.view).test_dataloader():
        predict_batch(sharpness, batch)
        count = len(Grid(batch.canvas, 32, 8))
        assert seen == [(min(5, count - start), 3, 32, 32) for start in range(0, count, 5)]
        seen.clear()


def test_tiled_evaluation_does_not_depend_on_the_batch(images_of_mixed_sizes: Path, resnet_file: Path) -> None:
    model = STFPM("resnet10t", (1, 2), str(resnet_file), View(None, tile=32)).eval().requires_grad_(False)
    scores = []
    for size in (1, 3):
        data = AnomalyDataModule(MVTec(images_of_mixed_sizes), model.view, loading=Loading(eval_batch_size=size))
        scores.append(torch.cat([unwrap(predict_batch(model, batch).score) for batch in data.test_dataloader()]))
    torch.testing.assert_close(scores[0], scores[1])


def test_tiles_that_do_not_fit_the_model_are_refused(vit_file: Path) -> None:
    with pytest.raises(UserError, match=r"view.tile is 30, but the model needs a multiple of 16: try 32"):
        Transformaly("deit_tiny_patch16_224", str(vit_file), View(None, tile=30))
