"""What the page is made from: the directories of runs, and their images, matched."""

from collections import defaultdict
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

import numpy as np

from lit_ad.errors import UserError
from lit_ad.evaluation.report.record import Record
from lit_ad.evaluation.report.thumbnails import Thumbnails
from lit_ad.evaluation.results import ImageResult, Results


@dataclass(frozen=True)
class Run:
    """What a run's directory holds."""

    home: Path
    name: str  # short, and another one for each run of a page
    results: Results
    record: Record | None
    config: str | None
    thumbnails: Thumbnails


@dataclass(frozen=True)
class Shown:
    """An image, and what each run says of it; None where a run did not see it."""

    file: str  # below the folder that all of a run's images have in common
    results: list[ImageResult | None]

    def of_any(self) -> ImageResult:
        """What all runs agree on: category, defect and label."""
        return next(result for result in self.results if result is not None)


def names_of(homes: list[Path]) -> list[str]:
    """The last parts of the paths that it takes to tell them apart."""
    parts = [home.absolute().parts for home in homes]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{homes[0]} is given twice: give each run once")


def read_run(home: Path, name: str) -> Run:
    """Raises UserError if a directory holds no results of a test, or a file of it is broken."""
    if not (home / "metrics.json").is_file():
        raise UserError(f"{home} holds no metrics.json: give the directory of a run that was tested, by lit-ad test")
    config = home / "config.yaml"
    results = Results.load(home / "metrics.json")
    if not results.images:
        raise UserError(f"{home / 'metrics.json'} holds no images: test the run again")
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    return Run(home, name, results, Record.load(home), text, Thumbnails(home))


def below(images: list[ImageResult]) -> dict[str, str]:
    """Each image's path below the folder that all have in common."""
    folder = commonpath([str(Path(image.path).parent) for image in images])
    return {image.path: Path(image.path).relative_to(folder).as_posix() for image in images}


def matched(runs: list[list[ImageResult]]) -> list[Shown]:
    """The images of all runs, each once: those with the same path, or, of runs that share none, as where the
    data set lies in other places, those with the same path below the folder that all have in common. There, another
    suffix makes no other image, as in the copies of `lit-ad data shift`, if all images of a run have names of their own
    without it."""
    short = [below(images) for images in runs]
    shared = len(runs) > 1 and set.intersection(*({image.path for image in images} for images in runs))
    stems = [{path: str(Path(name).with_suffix("")) for path, name in names.items()} for names in short]
    alone = all(len(set(names.values())) == len(names) for names in stems)
    results_of: dict[str, list[ImageResult | None]] = defaultdict(lambda: [None] * len(runs))
    files: dict[str, str] = {}
    for number, images in enumerate(runs):
        for image in images:
            key = image.path if shared else (stems if alone else short)[number][image.path]
            results_of[key][number] = image
            files.setdefault(key, short[number][image.path])
    return [Shown(files[key], results) for key, results in results_of.items()]


def shares_below(images: list[Shown]) -> list[list[float | None]]:
    """For each run, the share of its images whose score is lower: it compares scores of different scales."""
    ranks: list[list[float | None]] = [[] for _ in images]
    for number in range(len(images[0].results)):
        of_run = [image.results[number] for image in images]
        scores = np.sort([result.score for result in of_run if result is not None])
        for own_ranks, result in zip(ranks, of_run, strict=True):
            own_ranks.append(None if result is None else float(np.searchsorted(scores, result.score) / len(scores)))
    return ranks
