"""Choose the held-out images that set the scale of a method's maps. Other held-out images set the threshold, so that
the false-alarm rate stays exact."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from lit_ad.batch import Sample


def choose_scale_images(samples: Sequence[Sample], least: int) -> dict[str, list[int]]:
    """Return the indices of the held-out images that only set the scale, by category.

    They are every second image of a category, or all images of every second item, if the others are enough to set the
    threshold. A category with fewer images is absent from the result: all of its images set scale and threshold.

    Args:
        samples: The held-out images, in their order.
        least: Number of images that a category needs for its threshold.
    """
    items: dict[str, dict[str | int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, sample in enumerate(samples):
        items[sample.category][sample.item or row].append(row)
    chosen = {}
    for category, rows_by_item in items.items():
        rows = [row for item in list(rows_by_item.values())[::2] for row in item]
        if sum(map(len, rows_by_item.values())) - len(rows) >= max(least, 1):
            chosen[category] = rows
    return chosen


def list_scale_images(samples: Sequence[Sample], chosen: dict[str, list[int]]) -> list[int]:
    """Return the indices of all images that set the scale: those of `choose_scale_images`, and all images of the
    categories that are absent from it."""
    only_scale = set(flatten(chosen))
    return [row for row, sample in enumerate(samples) if row in only_scale or sample.category not in chosen]


def drop_scale_images(samples: Sequence[Sample], scaled: Collection[str]) -> list[Sample]:
    """Return the held-out images that set the threshold: all but those that set only the scale.

    Args:
        samples: The held-out images, in their order.
        scaled: The categories of which some images set only the scale: `Decision.scaled`.
    """
    only_scale = set(flatten({name: rows for name, rows in choose_scale_images(samples, 0).items() if name in scaled}))
    return [sample for row, sample in enumerate(samples) if row not in only_scale]


def flatten(chosen: dict[str, list[int]]) -> Iterable[int]:
    """Yield the indices of all categories."""
    for rows in chosen.values():
        yield from rows
