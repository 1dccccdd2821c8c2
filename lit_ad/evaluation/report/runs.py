"""Read the directories of runs for a page, and match their images."""

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
    """The content of a run's directory."""

    home: Path
    name: str  # short, and unique among the runs of a page
    results: Results
    record: Record | None
    config: str | None
    thumbnails: Thumbnails


@dataclass(frozen=True)
class Shown:
    """An image with the result of each run; None for a run that did not test it."""

    file: str  # path below the common folder of the run's images
    results: list[ImageResult | None]

    def any_result(self) -> ImageResult:
        """Return the result of any run, for the facts that all share: category, defect and label."""
        return next(result for result in self.results if result is not None)


def name_runs(homes: list[Path]) -> list[str]:
    """Return a name for each directory: as few last parts of its path as tell all of them apart."""
    parts = [home.absolute().parts for home in homes]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{homes[0]} is given twice: give each run once")


def read_run(home: Path, name: str) -> Run:
    """Read a run's directory. Raises UserError if it has no results of a test, or a file is broken."""
    if not (home / "metrics.json").is_file():
        raise UserError(f"{home} has no metrics.json: give the directory of a tested run (lit-ad test RUN)")
    config = home / "config.yaml"
    results = Results.load(home / "metrics.json")
    if not results.images:
        raise UserError(f"{home / 'metrics.json'} has no images: test the run again")
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    return Run(home, name, results, Record.load(home), text, Thumbnails(home))


def _shorten_paths(images: list[ImageResult]) -> dict[str, str]:
    """Return each image's path below the common folder of all images, by its complete path."""
    folder = commonpath([str(Path(image.path).parent) for image in images])
    return {image.path: Path(image.path).relative_to(folder).as_posix() for image in images}


def match_images(runs: list[list[ImageResult]]) -> list[Shown]:
    """Return the images of all runs, each once, with the result of each run.

    Images match by their path. If the runs share no path, because the data set lies in different places, images match
    by their path below their run's common folder. There the suffix is ignored, because `lit-ad data shift` changes it,
    unless two images of a run differ by it only.
    """
    short = [_shorten_paths(images) for images in runs]
    shared = len(runs) > 1 and set.intersection(*({image.path for image in images} for images in runs))
    stems = [{path: str(Path(name).with_suffix("")) for path, name in names.items()} for names in short]
    unique_stems = all(len(set(names.values())) == len(names) for names in stems)
    results_of: dict[str, list[ImageResult | None]] = defaultdict(lambda: [None] * len(runs))
    files: dict[str, str] = {}
    for number, images in enumerate(runs):
        for image in images:
            key = image.path if shared else (stems if unique_stems else short)[number][image.path]
            results_of[key][number] = image
            files.setdefault(key, short[number][image.path])
    return [Shown(files[key], results) for key, results in results_of.items()]


def compute_shares_below(images: list[Shown]) -> list[list[float | None]]:
    """Return for each image and run the share of the run's images with a lower score.

    It makes scores of different scales comparable. None for a run that did not test the image.
    """
    ranks: list[list[float | None]] = [[] for _ in images]
    for number in range(len(images[0].results)):
        of_run = [image.results[number] for image in images]
        scores = np.sort([result.score for result in of_run if result is not None])
        for own_ranks, result in zip(ranks, of_run, strict=True):
            own_ranks.append(None if result is None else float(np.searchsorted(scores, result.score) / len(scores)))
    return ranks
