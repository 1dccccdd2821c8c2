"""A page of one run's test, or of several beside one another: one HTML file that needs nothing else.

Charts are Chart.js's, which lies beside this file (MIT licence): of the plotting libraries that draw curves through any
points, zoom to the window's width and can be inlined, it is small (0.2 MB; plotly's is 4.5 MB, bokeh's 1 MB), and has
no dependencies. A content security policy in the page forbids it any request.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lit_ad.errors import UserError
from lit_ad.files import amount, atomic_write
from lit_ad.report.record import Record, Took
from lit_ad.report.table import HEADINGS, cells, with_intervals
from lit_ad.report.thumbnails import Thumbnails
from lit_ad.results import POOLED, ImageResult, Results, without_nan

PAGE = "report.html"
HERE = Path(__file__).parent
BUDGET = 55_000_000  # characters of pictures: with the rest, a page of any number of images has less than 60 MB


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
        return next(one for one in self.results if one is not None)


def write_page(homes: list[Path], output: Path) -> None:
    """Write the page of some runs' directories.

    Raises:
        UserError: A directory holds no results of a test, or the page cannot be written.
    """
    runs = [read_run(home, name) for home, name in zip(homes, names_of(homes), strict=True)]
    images = matched([run.results.images for run in runs])
    pictures, left_out = embedded(runs, images)
    rows = list(dict.fromkeys(row for run in runs for row in run.results.rows))
    page = {
        "runs": [of_run(run) for run in runs],
        "images": [of_image(image, ranks) for image, ranks in zip(images, shares_below(images), strict=True)],
        "pictures": pictures,
    }
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # The last line of the library names a file for debuggers, which is not here.
    chart_js = (HERE / "chart.js/chart.umd.min.js").read_text().partition("//# sourceMappingURL")[0]
    text = environment.get_template("page.html").render(
        runs=runs,
        page=without_nan(page),
        rows=rows,
        headings=HEADINGS.values(),
        table=cells({run.name: with_intervals(run.results) for run in runs}, rows),
        verdicts=list(verdicts(runs, images)),
        took=list(columns_of(runs)),
        differing=differing(runs),
        left_out=left_out,
        chart_js=Markup(chart_js),
        page_js=Markup((HERE / "charts.js").read_text() + (HERE / "gallery.js").read_text()),
    )
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    data set lies in other places, those with the same path below the folder that all have in common."""
    short = [below(images) for images in runs]
    shared = len(runs) > 1 and set.intersection(*({image.path for image in images} for images in runs))
    found: dict[str, list[ImageResult | None]] = defaultdict(lambda: [None] * len(runs))
    files: dict[str, str] = {}
    for number, images in enumerate(runs):
        for image in images:
            key = image.path if shared else short[number][image.path]
            found[key][number] = image
            files.setdefault(key, short[number][image.path])
    return [Shown(files[key], results) for key, results in found.items()]


def embedded(runs: list[Run], images: list[Shown]) -> tuple[list[dict[str, Any] | None], int]:
    """The pictures of each image, in base64, while the budget lasts, and the number of images without for its sake:
    those with wrong verdicts come first, the worst before all, then those near their threshold."""

    def order(number: int) -> float:
        return -max(one.wrong_by for one in images[number].results if one is not None)

    pictures: list[dict[str, Any] | None] = [None] * len(images)
    spent, left_out = 0, 0
    for number in sorted(range(len(images)), key=order):
        each = list(zip(runs, images[number].results, strict=True))
        seen = [(run, one.path) for run, one in each if one is not None]
        source = next(((run, path) for run, path in seen if run.thumbnails.size(path, "image")), None)
        if source is None:
            continue  # of a test by an older version, or on another machine's disk
        run, path = source
        parts = [(run, path, "image"), (run, path, "truth"), *((run, path, "heat") for run, path in seen)]
        size = sum(4 * ((run.thumbnails.size(path, kind) + 2) // 3) for run, path, kind in parts)
        if spent + size > BUDGET:
            left_out += 1
            continue
        spent += size
        pictures[number] = {
            "image": text_of(run.thumbnails(path, "image")),
            "truth": text_of(run.thumbnails(path, "truth")),
            "heats": [None if one is None else text_of(run.thumbnails(one.path, "heat")) for run, one in each],
        }
    return pictures, left_out


def text_of(picture: bytes | None) -> str | None:
    """In base64."""
    return None if picture is None else b64encode(picture).decode()


def shares_below(images: list[Shown]) -> list[list[float | None]]:
    """For each run, the share of its images whose score is lower: it compares scores of different scales."""
    ranks: list[list[float | None]] = [[] for _ in images]
    for number in range(len(images[0].results)):
        of_run = [image.results[number] for image in images]
        scores = np.sort([one.score for one in of_run if one is not None])
        for mine, one in zip(ranks, of_run, strict=True):
            mine.append(None if one is None else float(np.searchsorted(scores, one.score) / len(scores)))
    return ranks


def of_run(run: Run) -> dict[str, Any]:
    """What the page's script knows of a run."""
    results = run.results
    pooled = results.rows[POOLED]
    return {
        "name": run.name,
        "threshold": results.threshold,
        "thresholds": {image.category: image.threshold for image in results.images},
        "heldOut": {} if run.record is None else run.record.held_out,
        "curves": {name: [axis.tolist() for axis in curve] for name, curve in results.curves.items()},
        "pixels": {
            name: pooled.get(name)
            for name in ("nominal_pixels", "anomalous_pixels", "pixel_recall", "pixel_false_positive_rate")
        },
    }


def of_image(image: Shown, ranks: list[float | None]) -> dict[str, Any]:
    """What the page's script knows of an image."""
    common = image.of_any()
    return {
        "file": image.file,
        "path": common.path,
        "category": common.category,
        "defect": common.defect,
        "label": common.label,
        "scores": [None if one is None else one.score for one in image.results],
        "pValues": [None if one is None else one.p_value for one in image.results],
        "ranks": ranks,
    }


def verdicts(runs: list[Run], images: list[Shown]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Of each pair of runs: how many of the images that both judged each of them judged rightly."""
    for (i, one), (j, other) in combinations(enumerate(runs), 2):
        counts = dict.fromkeys(("both right", "first only", "second only", "both wrong"), 0)
        for image in images:
            first, second = image.results[i], image.results[j]
            if first is not None and second is not None and None not in (first.threshold, second.threshold):
                kind = (("both right", "first only"), ("second only", "both wrong"))[first.missed][second.missed]
                counts[kind] += 1
        yield one.name, other.name, counts


def columns_of(runs: list[Run]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """What training and testing took, in words: run, "training" or "test", and the lines."""
    for run in runs:
        if run.record is not None:
            for what, took in (("training", run.record.training), ("test", run.record.test)):
                if took is not None:
                    yield run.name, what, in_words(took)


def in_words(took: Took) -> dict[str, str]:
    seconds = f"{took.seconds:.1f} s" if took.seconds < 600 else f"{took.seconds / 60:.1f} min"
    return {
        "time": seconds + (", since it went on from a checkpoint" if took.resumed else ""),
        "images": f"{took.images}, {took.images / max(took.seconds, 1e-9):.3g} a second",
        "memory, at most": "unknown" if took.memory is None else amount(took.memory),
        "GPU memory, at most": "none" if took.gpu_memory is None else amount(took.gpu_memory),
        **took.environment,
    }


def differing(runs: list[Run]) -> dict[str, list[str]]:
    """The keys of the configurations that are not the same in all runs that have one, and their values."""
    flat = [dict(flattened(yaml.safe_load(run.config))) if run.config else {} for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    found = {key: [values.get(key, "") for values in flat] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def flattened(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """KEY.KEY of each value that is no dictionary, and the value as YAML has it in a line."""
    if isinstance(values, dict) and values:
        for name, inner in values.items():
            yield from flattened(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, yaml.safe_dump(values, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
