"""The values of each image stay together in a batch: pixels, mask, size and features."""

from pathlib import Path

import torch

from lit_ad.batch import Batch, Sample

LABELS = (0, 1, -1)


def make_batch(count: int = 3, canvases: list[tuple[int, int]] | None = None) -> Batch:
    """Return a batch of images of 8x10 pixels; all pixels of an image are its number."""
    numbers = torch.arange(count, dtype=torch.uint8)
    return Batch(
        pixels=numbers.view(-1, 1, 1, 1).expand(count, 3, 8, 10).clone(),
        index=numbers.long() + 40,
        samples=[Sample(Path(f"{i}.png"), LABELS[i % 3], category="nut") for i in range(count)],
        sizes=[(16 + i, 20) for i in range(count)],
        boxes=[(0, 0, 8, 10)] * count if canvases is None else [(0, 0, *canvas) for canvas in canvases],
        canvases=canvases,
        masks=[torch.full((2, 2), bool(i)) if i else None for i in range(count)],
        features=[numbers.view(-1, 1).float(), 10 * numbers.view(-1, 1).float()],
        unrelated=(100 + numbers).view(-1, 1, 1, 1).expand(count, 3, 8, 10),
        corrupted=(200 + numbers).view(-1, 1, 1, 1).expand(count, 3, 8, 10),
        corruption=(numbers > 1).view(-1, 1, 1, 1).expand(count, 1, 8, 10),
    )


def test_labels_and_sizes() -> None:
    batch = make_batch()
    assert len(batch) == 3
    assert batch.labels.tolist() == [0, 1, -1]
    assert batch.canvas == (8, 10)
    assert batch.input_size(2) == (8, 10)


def test_a_selection_keeps_the_values_of_each_image_together() -> None:
    batch = make_batch(3, canvases=[(8, 10), (4, 6), (8, 5)])
    chosen = batch.select([False, True, True])
    assert chosen.index.tolist() == [41, 42]
    assert [sample.image.name for sample in chosen.samples] == ["1.png", "2.png"]
    assert chosen.sizes == [(17, 20), (18, 20)]
    assert chosen.boxes == [(0, 0, 4, 6), (0, 0, 8, 5)]
    assert chosen.canvases == [(4, 6), (8, 5)]
    assert chosen.pixels is not None and chosen.pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert chosen.unrelated is not None and chosen.unrelated[:, 0, 0, 0].tolist() == [101, 102]
    assert chosen.corrupted is not None and chosen.corrupted[:, 0, 0, 0].tolist() == [201, 202]
    assert chosen.corruption is not None and chosen.corruption[:, 0, 0, 0].tolist() == [False, True]
    assert chosen.masks is not None and [mask is None for mask in chosen.masks] == [False, False]
    assert chosen.features is not None
    assert [level.flatten().tolist() for level in chosen.features] == [[1, 2], [10, 20]]
    assert len(batch) == 3  # unchanged
    assert batch.select([True, True, True]) is batch
    none = batch.select([False, False, False])
    assert (len(none), none.index.tolist(), none.samples) == (0, [], [])


def test_missing_values_stay_missing() -> None:
    batch = Batch(None, torch.tensor([1, 2]), [Sample(Path("a"), 0)] * 2, [(0, 0)] * 2, [(0, 0, 0, 0)] * 2)
    for one in (batch.select([True, False]), batch.to(torch.device("cpu"))):
        for name in ("pixels", "masks", "features", "canvases", "unrelated", "corrupted", "corruption"):
            assert getattr(one, name) is None


def test_a_move_to_a_device_leaves_masks_on_the_cpu() -> None:
    """Masks have the images' own size, and only metrics on the CPU read them."""
    moved = make_batch().to(torch.device("meta"))
    assert moved.features is not None
    for tensor in (moved.pixels, moved.index, moved.unrelated, moved.corrupted, moved.corruption, *moved.features):
        assert tensor is not None and tensor.device.type == "meta"
    assert moved.masks is not None and moved.masks[1] is not None
    assert moved.masks[1].device.type == "cpu"
    assert moved.sizes == make_batch().sizes


def test_split_removes_the_padding_of_each_image() -> None:
    batch = make_batch(3, canvases=[(8, 10), (4, 6), (8, 5)])
    alone = batch.split()
    assert [one.canvas for one in alone] == [(8, 10), (4, 6), (8, 5)]
    assert [one.index.tolist() for one in alone] == [[40], [41], [42]]
    assert all(one.canvases is None and len(one) == 1 for one in alone)
    assert [int(one.pixels.max()) for one in alone if one.pixels is not None] == [0, 1, 2]
    assert len(batch.same_size_parts()) == 3
    same = make_batch()
    assert same.same_size_parts() == [same]
