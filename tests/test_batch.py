"""What travels with a batch stays together: images, masks, sizes and features, each with its own."""

from pathlib import Path

import torch

from lit_ad.batch import Batch, Sample

LABELS = (0, 1, -1)


def batch_of(count: int = 3, canvases: list[tuple[int, int]] | None = None) -> Batch:
    """Images of 8x10 pixels, each of its own number."""
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
    batch = batch_of()
    assert len(batch) == 3
    assert batch.labels.tolist() == [0, 1, -1]
    assert batch.canvas == (8, 10)
    assert batch.input_size(2) == (8, 10)


def test_selecting_keeps_together_what_belongs_together() -> None:
    batch = batch_of(3, canvases=[(8, 10), (4, 6), (8, 5)])
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


def test_what_is_absent_stays_absent() -> None:
    batch = Batch(None, torch.tensor([1, 2]), [Sample(Path("a"), 0)] * 2, [(0, 0)] * 2, [(0, 0, 0, 0)] * 2)
    for one in (batch.select([True, False]), batch.to(torch.device("cpu"))):
        for name in ("pixels", "masks", "features", "canvases", "unrelated", "corrupted", "corruption"):
            assert getattr(one, name) is None


def test_moving_moves_all_but_the_masks() -> None:
    """They are at the images' own size, and only metrics on the CPU read them."""
    moved = batch_of().to(torch.device("meta"))
    assert moved.features is not None
    for tensor in (moved.pixels, moved.index, moved.unrelated, moved.corrupted, moved.corruption, *moved.features):
        assert tensor is not None and tensor.device.type == "meta"
    assert moved.masks is not None and moved.masks[1] is not None
    assert moved.masks[1].device.type == "cpu"
    assert moved.sizes == batch_of().sizes


def test_each_image_alone_is_as_it_was_before_it_was_filled_up() -> None:
    batch = batch_of(3, canvases=[(8, 10), (4, 6), (8, 5)])
    alone = batch.alone()
    assert [one.canvas for one in alone] == [(8, 10), (4, 6), (8, 5)]
    assert [one.index.tolist() for one in alone] == [[40], [41], [42]]
    assert all(one.canvases is None and len(one) == 1 for one in alone)
    assert [int(one.pixels.max()) for one in alone if one.pixels is not None] == [0, 1, 2]
    assert len(batch.uniform()) == 3
    same = batch_of()
    assert same.uniform() == [same]
