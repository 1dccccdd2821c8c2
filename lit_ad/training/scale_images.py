"""Which held-out images set the scale of a method's maps and do not decide, so that the false-alarm rate is exact."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from lit_ad.batch import Sample


def choose_scale_images(samples: Sequence[Sample], least: int) -> dict[str, list[int]]:
    """Return the numbers of the held-out images that only set the scale, by category.

    They are every second image of a category, or every second item, where the others are enough to decide. A category
    of fewer images is left out: all of them set the scale, and all decide.

    Args:
        samples: The held-out images, in their order.
        least: How many images of a category have to be left to decide.
    """
    items: dict[str, dict[str | int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, sample in enumerate(samples):
        items[sample.category][sample.item or row].append(row)
    chosen = {}
    for category, of_category in items.items():
        rows = [row for item in list(of_category.values())[::2] for row in item]
        if sum(map(len, of_category.values())) - len(rows) >= max(least, 1):
            chosen[category] = rows
    return chosen


def looked_at(samples: Sequence[Sample], chosen: dict[str, list[int]]) -> list[int]:
    """Return the numbers of all images that set the scale: those chosen, and those of the other categories."""
    alone = set(flatten(chosen))
    return [row for row, sample in enumerate(samples) if row in alone or sample.category not in chosen]


def flatten(chosen: dict[str, list[int]]) -> Iterable[int]:
    """Yield the numbers of all categories."""
    for rows in chosen.values():
        yield from rows
