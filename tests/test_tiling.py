"""Tiles cover, and their maps join without a seam; against plain slicing and NumPy's reflection."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lit_ad.batch import Batch, Prediction, Tiling
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.methods import STFPM
from lit_ad.module import AnomalyModule
from lit_ad.teachers import Teacher
from lit_ad.tiling import Grid, Tiles, ramp, reflect, starts

SIZES = [(64, 64), (65, 64), (100, 130), (16, 200), (10, 7), (33, 1), (1, 1)]
TILES = [(16, 0), (16, 1), (16, 5), (16, 8), (40, 10)]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize(("tile", "overlap"), TILES)
def test_tiles_cover_with_the_overlap_asked_for(length: int, tile: int, overlap: int) -> None:
    first = starts(length, tile, overlap)
    assert first[0] == 0 and first[-1] == max(0, length - tile)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(first))
    if length > tile:  # one tile less would not do
        assert (len(first) - 1) * (tile - overlap) + overlap < length


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "overlap"), TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_cut_and_stitched_is_the_map(size: tuple[int, int], tile: int, overlap: int, dtype: torch.dtype) -> None:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    grid = Grid(size, tile, overlap)
    for image in (torch.full(size, 3.0), 0.5 * y + 2 * x, torch.randn(size)):
        image = image[None].to(dtype)
        batches = list(grid.batches(image, 3))
        assert all(len(batch) <= 3 and batch.shape[1:] == (1, tile, tile) for batch in batches)
        assert sum(map(len, batches)) == len(grid)
        stitched = grid.stitch(iter(batches))
        assert stitched.dtype == dtype
        exact = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 0}
        torch.testing.assert_close(stitched, image[None], **exact)


def test_tiles_that_disagree_change_over_smoothly() -> None:
    """Each tile says another number: no pixel differs from the next by more than the window's steepest step."""
    grid = Grid((16, 88), 16, 8)
    steps = torch.arange(float(len(grid))).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    stitched = grid.stitch(iter(steps.split(4)))[0, 0]
    assert stitched.diff(dim=1).abs().max() < 0.4 and stitched.diff(dim=0).abs().max() < 1e-6
    assert stitched[0, 0] == 0 and stitched[0, -1] == len(grid) - 1
    hard = Grid((16, 88), 16, 0)
    assert len(hard) == 6  # 88 is no multiple of 16


def test_the_outermost_of_a_tile_counts_nothing_towards_a_neighbour() -> None:
    weight = ramp(32, 16, before=True, after=False)
    assert weight[:4].tolist() == [0] * 4 and weight[12:].tolist() == [1] * 20 and (weight.diff() >= 0).all()
    assert torch.equal(ramp(32, 16, False, True), weight.flip(0))


@pytest.mark.parametrize("size", [(10, 7), (1, 9), (5, 1), (1, 1), (20, 20)])
def test_reflection_is_numpys(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    more = [(0, 0), (0, max(0, 20 - size[0])), (0, max(0, 20 - size[1]))]
    filled = reflect(image, (20, 20))
    assert filled.dtype == torch.uint8
    assert np.array_equal(filled.numpy(), np.pad(image.numpy(), more, mode="reflect"))


def test_an_impossible_overlap() -> None:
    with pytest.raises(ValueError, match=r"tile_overlap must lie between 0 and half the tile of 16 pixels, not 9"):
        Grid((64, 64), 16, 9)


class Sharpness(AnomalyModule):
    """A 9x9 convolution, zero-padded: translation-invariant, and wrong within four pixels of a tile's edge."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher)
        self.kernel = nn.Conv2d(3, 1, 9, padding=4)

    def loss(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return self.kernel(images).square().mean()

    def detect(self, images: Tensor, features: list[Tensor]) -> Prediction:
        anomaly_map = self.kernel(images)
        return Prediction(anomaly_map, self.score(anomaly_map))


@pytest.fixture
def sharpness(resnet_file: Path) -> Sharpness:
    torch.manual_seed(0)
    return Sharpness(Teacher("resnet10t", (1,), str(resnet_file))).eval().requires_grad_(False)


def batch_of(images: Tensor, tiling: Tiling | None = None) -> Batch:
    n, _, height, width = images.shape
    return Batch(
        image=images,
        label=torch.zeros(n, dtype=torch.long),
        index=torch.arange(n),
        path=[f"{i}.png" for i in range(n)],
        category=[""] * n,
        defect=["good"] * n,
        size=[(height, width)] * n,
        box=[(0, 0, height, width)] * n,
        tiling=tiling,
    )


@pytest.mark.parametrize("size", [(100, 140), (64, 64), (97, 65)])
def test_stitched_equals_untiled(sharpness: Sharpness, size: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    whole = sharpness.predict_batch(sharpness.on_after_batch_transfer(batch_of(pixels), 0))
    tiled = sharpness.predict_batch(batch_of(pixels, Tiling(32, 16, 3)))  # a quarter of 16 is the kernel's reach
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map)
    torch.testing.assert_close(tiled.score, whole.score)
    cut = sharpness.predict_batch(batch_of(pixels, Tiling(32, 0, 3)))  # and without overlap there are seams
    assert (cut.anomaly_map - whole.anomaly_map).abs().max() > 1e-3


def test_padding_is_neither_tiled_nor_scored(sharpness: Sharpness) -> None:
    pixels = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    alone = sharpness.predict_batch(batch_of(pixels[:1, :, 3:43, 5:60], Tiling(32, 8, 2)))
    padded = replace(batch_of(pixels, Tiling(32, 8, 2)), box=[(3, 5, 43, 60), (0, 0, 50, 70)])
    both = sharpness.predict_batch(padded)
    assert both.anomaly_map.shape == (2, 1, 50, 70)
    torch.testing.assert_close(both.anomaly_map[:1, :, 3:43, 5:60], alone.anomaly_map)
    torch.testing.assert_close(both.score[:1], alone.score)


def test_validation_loss_of_tiles_is_their_mean(sharpness: Sharpness, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {}
    monkeypatch.setattr(sharpness, "log", lambda name, value, **_: logged.update({name: value}))
    pixels = torch.randint(0, 256, (1, 3, 40, 72), dtype=torch.uint8)
    sharpness.validation_step(batch_of(pixels, Tiling(32, 8, 4)), 0)
    tiles = torch.stack([pixels[0, :, top : top + 32, left : left + 32] for top in (0, 8) for left in (0, 20, 40)])
    torch.testing.assert_close(logged["val/loss"].compute(), sharpness.loss(sharpness.teacher.normalize(tiles), []))


def test_every_tile_of_every_image_once() -> None:
    images = [torch.arange(40 * 60).view(1, 40, 60), torch.arange(9 * 9).view(1, 9, 9), torch.ones(1, 16, 30)]
    tiles = Tiles([(40, 60), (9, 9), (16, 30)], 16, 4)
    assert len(tiles) == 3 * 5 + 1 + 3
    cuts = [tiles.cut(images[tiles.image(i)], i, (0,)) for i in range(len(tiles))]
    assert [tiles.image(i) for i in range(len(tiles))] == [0] * 15 + [1] + [2] * 3
    assert {int(v) for cut in cuts[:15] for v in cut.flatten()} == set(range(40 * 60))
    assert torch.equal(cuts[15][:, :9, :9], images[1]) and all(cut.shape == (1, 16, 16) for cut in cuts)


def test_random_tiles_depend_on_their_key_and_lie_inside() -> None:
    image = torch.arange(40 * 60).view(1, 40, 60)
    tiles = Tiles([(40, 60)], 16, 4, random=True)
    corners = [[int(tiles.cut(image, i, (0, epoch))[0, 0, 0]) for i in range(len(tiles))] for epoch in (0, 1, 0)]
    assert corners[0] == corners[2] != corners[1] and len(set(corners[0])) > len(tiles) // 2
    assert all(corner // 60 <= 24 and corner % 60 <= 44 for corner in corners[0])
    small = Tiles([(9, 9)], 16, 4, random=True)
    assert torch.equal(small.cut(image[:, :9, :9], 0, (0,))[:, :9, :9], image[:, :9, :9])


# What the DataModule makes of them.


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Images of all sizes, none a multiple of the tile, one smaller than it."""
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


def test_training_on_tiles_of_mixed_sizes(mixed: Path) -> None:
    data = AnomalyDataModule(MVTec(mixed), image_size=None, tile_size=32, tile_overlap=8, batch_size=2)
    loader = data.train_dataloader()
    sizes = [Image.open(sample.image).size[::-1] for sample in data.listed["train"]]
    assert len(loader.dataset) == sum(len(Grid(size, 32, 8)) for size in sizes)
    batches = list(loader)
    assert all(b.image.shape == (2, 3, 32, 32) and b.tiling is None and b.image.dtype == torch.uint8 for b in batches)
    order = [i for b in batches for i in b.index.tolist()]
    assert len(set(order)) == len(order) and order != sorted(order)


def test_random_tiles_differ_by_epoch(mixed: Path) -> None:
    made = {}
    for _ in range(2):
        data = AnomalyDataModule(MVTec(mixed), image_size=None, tile_size=16, train_tiles="random", batch_size=1)
        loader = data.train_dataloader()
        for epoch in range(2):
            epochs = {int(b.index): b.image.clone() for b in loader}
            again = made.setdefault(epoch, epochs)
            assert all(torch.equal(again[i], image) for i, image in epochs.items())
    assert any(not torch.equal(made[0][i], made[1][i]) for i in made[0])


def test_evaluation_gets_whole_images_and_a_tiling(mixed: Path) -> None:
    data = AnomalyDataModule(MVTec(mixed), image_size=None, tile_size=32, tile_batch=5)
    batches = list(data.test_dataloader())
    assert [tuple(b.image.shape[2:]) for b in batches] == [(35, 66), (50, 40), (20, 24)]  # one at a time
    assert all(b.tiling == Tiling(32, 8, 5) for b in batches)
    assert batches[0].mask[0].shape == (35, 66)


def test_tiled_evaluation_does_not_depend_on_the_batch(mixed: Path, resnet_file: Path) -> None:
    model = STFPM("resnet10t", (1, 2), str(resnet_file)).eval().requires_grad_(False)
    scores = []
    for size in (1, 3):
        data = AnomalyDataModule(MVTec(mixed), image_size=None, tile_size=32, eval_batch_size=size)
        scores.append(torch.cat([model.predict_batch(batch).score for batch in data.test_dataloader()]))
    torch.testing.assert_close(scores[0], scores[1])


def test_tiles_that_do_not_fit_the_model(mixed: Path) -> None:
    with pytest.raises(ValueError, match="tile_overlap must lie between"):
        AnomalyDataModule(MVTec(mixed), tile_size=32, tile_overlap=20)
    data = AnomalyDataModule(MVTec(mixed), image_size=None, tile_size=30, multiple=16)
    with pytest.raises(ValueError, match="tile_size is 30, but the model needs a multiple of 16: try 32"):
        data.train_dataloader()
