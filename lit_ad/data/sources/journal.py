"""Images of a line that people have labelled, from the journal of `lit-ad serve MODEL --journal DIR`."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lit_ad.batch import Sample, SplitName
from lit_ad.data.sources.source import Source, select_categories
from lit_ad.errors import UserError
from lit_ad.files import resolve_path

NAME, PICTURES, SCHEMAS = "journal.sqlite", "pictures", (1, 2)  # as lit_ad.deploy writes them
_LABELLED = """
SELECT images.id, coalesce(picture, ''), label, defect, category, sampled
FROM labels JOIN images ON images.id = labels.image
WHERE undone IS NULL ORDER BY images.id
"""


class Labelled(NamedTuple):
    """An image with a label from a person."""

    number: int
    picture: str  # a file in DIR/pictures
    label: str  # good, defect or unsure
    defect: str
    category: str
    sampled: bool  # whether it is in the random sample, which does not depend on scores


class Journal(Source):
    """Images that were labelled on the service's page of review. Good images are for training and test, defects for the
    test only.

    An image keeps its split when more images are labelled. Images with the label "unsure" are left out.

    Args:
        root: DIR of `lit-ad serve MODEL --journal DIR`.
        category: The categories to take, by their names in the service. None: all.
        test_fraction: Fraction of the good images that is kept for the test.
        seed: Seed that draws these images.
    """

    def __init__(
        self, root: Path, category: str | list[str] | None = None, test_fraction: float = 0.2, seed: int = 0
    ) -> None:
        self.root, self.category = resolve_path(root), category
        self.test_fraction, self.seed = test_fraction, seed
        if not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction is {test_fraction}, but it must lie in [0, 1)")

    def samples(self) -> list[Sample]:
        labelled = read_labelled(self.root)
        if not labelled:
            raise UserError(f"no image in {self.root / NAME} is labelled: label some on the service's page, /review")
        chosen, listed = select_categories(self.category, list_categories(labelled), self.root), []
        for number, picture, label, defect, category, _ in labelled:
            if category in chosen and label != "unsure":
                tested = label == "defect" or random.Random(f"{self.seed}/{number}").random() < self.test_fraction
                kind = (defect or "anomalous") if label == "defect" else "good"
                split: SplitName = "test" if tested else "train"
                image = self.root / PICTURES / picture
                listed.append(Sample(image, int(label == "defect"), None, category, kind, split))
        return sorted(listed, key=lambda sample: sample.split, reverse=True)  # train, test; stable within each

    def list_good(self) -> list[Sample]:
        """Return the good images of the random sample, of all splits, for new thresholds.

        Other images were kept because of their scores, and would make the threshold too high.

        Raises:
            UserError: No image of the random sample is labelled good.
        """
        sampled = {self.root / PICTURES / picture for _, picture, *_, sampled in read_labelled(self.root) if sampled}
        nominal = [sample for sample in self.samples() if sample.label == 0 and sample.image in sampled]
        if not nominal:
            raise UserError(
                f"no image of the random sample in {self.root / NAME} is labelled good: label all of the sample on the "
                "service's page, /review; the other images were kept because of their scores, and set no threshold"
            )
        return nominal

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each category."""
        return {name: {"category": name} for name in list_categories(read_labelled(self.root))}

    def remarks(self) -> list[str]:
        """Return sentences about the numbers of images that are left out."""
        labelled = read_labelled(self.root)
        unsure = sum(each.label == "unsure" for each in labelled)
        left_out = {"labelled unsure": unsure, "whose picture somebody removed": count_gone(self.root)}
        remarks = [f"images {which} are left out: {count}" for which, count in left_out.items() if count]
        counts = Counter(each.category for each in labelled)
        if self.category is None and counts[""] and len(counts) > 1:
            remarks.append(
                f"{counts['']} of {counts.total()} images have no category: they are a category of their own"
            )
        return remarks


def read_labelled(folder: Path) -> list[Labelled]:
    """Return the labelled images of a journal that have a picture, in the order in which they were judged. Raises
    UserError if there is no journal."""
    return [each for each in _read_all(folder) if _has_picture(folder, each)]


def count_gone(folder: Path) -> int:
    """Count the labelled images of a journal whose picture is gone. Raises UserError if there is no journal."""
    return sum(not _has_picture(folder, each) for each in _read_all(folder))


def _has_picture(folder: Path, image: Labelled) -> bool:
    return bool(image.picture) and (folder / PICTURES / image.picture).is_file()


def _read_all(folder: Path) -> list[Labelled]:
    """Return all labelled images of a journal; the picture of those that have none is ""."""
    with _open_for_reading(folder / NAME) as connection:
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        if schema not in SCHEMAS:
            raise UserError(f"{folder / NAME} has schema {schema}, and this lit_ad reads {SCHEMAS[-1]}")
        return [Labelled(*row) for row in connection.execute(_LABELLED)]


def list_categories(labelled: list[Labelled]) -> list[str]:
    """Return the categories of labelled images, each once."""
    return list(dict.fromkeys(category for *_, category, _ in labelled))


def is_journal(folder: Path) -> bool:
    """Return whether a folder holds a journal."""
    return (folder / NAME).is_file()


@contextmanager
def _open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal's file for reading. Raises UserError if it does not exist or cannot be read."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: data.source.root is DIR of `lit-ad serve MODEL --journal DIR`")
    connection = sqlite3.connect(path, timeout=10)
    try:
        yield connection
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()
