"""Write the page of one run's test, or a page that compares several: one HTML file that needs no other file.

Chart.js draws the charts. It lies beside this file (version 4.6.1, MIT licence), and is copied into the page: one file
of 0.2 MB without dependencies. The chart libraries that Python packages bring are larger than most pages. A content
security policy in the page forbids every request.
"""

import shlex
from base64 import b64encode
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lit_ad.counts import format_count
from lit_ad.evaluation.promises import describe_kept_rates, list_guarantees
from lit_ad.evaluation.report.enough import draw, list_threshold_lines
from lit_ad.evaluation.report.record import Took
from lit_ad.evaluation.report.runs import Run, Shown, compute_shares_below, match_images, name_runs, read_run
from lit_ad.evaluation.report.shifts import describe, list_shifts
from lit_ad.evaluation.report.table import HEADINGS, add_intervals, make_lines
from lit_ad.evaluation.results import POOLED, without_nan
from lit_ad.files import atomic_write, format_bytes
from lit_ad.names import escape_bytes, map_texts

PAGE = "report.html"
_HERE = Path(__file__).parent
BUDGET = 55_000_000  # characters of pictures in a page; a page of 10 000 images then has less than 60 MB


def write_page(homes: list[Path], output: Path) -> None:
    """Write the page of some runs' directories.

    Raises:
        UserError: A directory holds no results of a test, or the page cannot be written.
    """
    runs = [read_run(home, name) for home, name in zip(homes, name_runs(homes), strict=True)]
    images = match_images([run.results.images for run in runs])
    pictures, left_out = _embed_pictures(runs, images)
    rows = list(dict.fromkeys(row for run in runs for row in run.results.rows))
    page = {
        "runs": [_describe_run(run) for run in runs],
        "images": [
            _describe_image(image, ranks) for image, ranks in zip(images, compute_shares_below(images), strict=True)
        ],
        "pictures": pictures,
    }
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # The last line of the library names a file for debuggers, which the page does not have.
    chart_js = (_HERE / "chart.js/chart.umd.min.js").read_text(encoding="utf-8").partition("//# sourceMappingURL")[0]
    text = environment.get_template("page.html").render(
        runs=runs,
        title=make_title(runs),
        format_count=format_count,
        describe_kept_rates=describe_kept_rates,
        list_guarantees=list_guarantees,
        page=map_texts(escape_bytes, without_nan(page)),
        rows=rows,
        headings=HEADINGS.values(),
        table=make_lines({run.name: add_intervals(run.results) for run in runs}, rows),
        enough=[(run.name, each) for run in runs for each in list_threshold_lines(run.results)],
        describe_shift=describe,
        picture=draw(runs[0].results) if len(runs) == 1 else None,
        shifts=list_shifts(runs),
        verdicts=list(compare_verdicts(runs, images)),
        took=list(_list_columns(runs)),
        differing=find_differing_keys(runs),
        left_out=left_out,
        chart_js=Markup(chart_js),
        page_js=Markup("".join((_HERE / name).read_text(encoding="utf-8") for name in ("charts.js", "gallery.js"))),
    )
    with atomic_write(output) as temporary:
        temporary.write_text(escape_bytes(text), encoding="utf-8")


def make_title(runs: list[Run]) -> str:
    """Return the page's title, with the categories and the methods: "bottle: STFPM and Dinomaly"."""
    categories = sorted({image.category for run in runs for image in run.results.images if image.category})
    several = len(categories) > 3
    data = f"{len(categories)} categories" if several else ", ".join(categories) or "images"
    methods = dict.fromkeys(run.record.method if run.record else run.name for run in runs)
    return f"{data}: {' and '.join(methods)}"


def _embed_pictures(runs: list[Run], images: list[Shown]) -> tuple[list[dict[str, Any] | None], int]:
    """Return the pictures of each image in base64, and the number of images that are left out to stay within BUDGET.

    Images with wrong verdicts come first, the worst at the start, then those near their threshold. The pictures of an
    image are None if it is left out or has none.
    """

    def order(number: int) -> float:
        return -max(result.wrong_by for result in images[number].results if result is not None)

    pictures: list[dict[str, Any] | None] = [None] * len(images)
    spent, left_out = 0, 0
    for number in sorted(range(len(images)), key=order):
        each = list(zip(runs, images[number].results, strict=True))
        seen = [(run, result.path) for run, result in each if result is not None]
        source = next(((run, path) for run, path in seen if run.thumbnails.size(path, "image")), None)
        if source is None:
            continue  # an older version tested it, or its pictures are on another machine's disk
        run, path = source
        parts = [(run, path, "image"), (run, path, "truth"), *((run, path, "heat") for run, path in seen)]
        size = sum(4 * ((run.thumbnails.size(path, kind) + 2) // 3) for run, path, kind in parts)
        if spent + size > BUDGET:
            left_out += 1
            continue
        spent += size
        pictures[number] = {
            "image": _to_base64(run.thumbnails(path, "image")),
            "truth": _to_base64(run.thumbnails(path, "truth")),
            "heats": [
                None if result is None else _to_base64(run.thumbnails(result.path, "heat")) for run, result in each
            ],
        }
    return pictures, left_out


def _to_base64(picture: bytes | None) -> str | None:
    """Return a picture in base64; None for None."""
    return None if picture is None else b64encode(picture).decode()


def _describe_run(run: Run) -> dict[str, Any]:
    """Return the values of a run that the page's script needs."""
    results = run.results
    pooled = results.rows[POOLED]
    thresholds = [] if results.decision is None else results.decision["thresholds"]
    tested = results.checkpoint
    return {
        "name": run.name,
        "threshold": results.threshold,
        "thresholds": {image.category: image.threshold for image in results.images},
        "byHand": [entry["category"] for entry in thresholds if entry["image"]["by_hand"]],  # null: all together
        # The path as a shell takes it. An absolute path stays as it is.
        "checkpoint": None if tested is None else shlex.quote(str(run.home.absolute() / tested)),
        "heldOut": {} if run.record is None else run.record.held_out,
        "curves": {name: [axis.tolist() for axis in curve] for name, curve in results.curves.items()},
        "pixels": {
            name: pooled.get(name)
            for name in ("nominal_pixels", "anomalous_pixels", "pixel_recall", "pixel_false_positive_rate")
        },
    }


def _describe_image(image: Shown, ranks: list[float | None]) -> dict[str, Any]:
    """Return the values of an image that the page's script needs."""
    common = image.any_result()
    return {
        "file": image.file,
        "path": common.path,
        "category": common.category,
        "defect": common.defect,
        "label": common.label,
        "scores": [None if result is None else result.score for result in image.results],
        "pValues": [None if result is None else result.p_value for result in image.results],
        "ranks": ranks,
    }


def compare_verdicts(runs: list[Run], images: list[Shown]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield for each pair of runs the numbers of images that both, one or none of them judged rightly."""
    for (i, run), (j, other) in combinations(enumerate(runs), 2):
        counts = dict.fromkeys(("both right", "first only", "second only", "both wrong"), 0)
        for image in images:
            first, second = image.results[i], image.results[j]
            if first is not None and second is not None and None not in (first.threshold, second.threshold):
                kind = (("both right", "first only"), ("second only", "both wrong"))[first.is_wrong][second.is_wrong]
                counts[kind] += 1
        yield run.name, other.name, counts


def _list_columns(runs: list[Run]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield run, "training" or "test", and the lines about its time, memory and environment."""
    for run in runs:
        if run.record is not None:
            for what, took in (("training", run.record.training), ("test", run.record.test)):
                if took is not None:
                    yield run.name, what, _describe_took(took)


def _describe_took(took: Took) -> dict[str, str]:
    """Return time, images, memory and environment in words, a line for each."""
    seconds = f"{took.seconds:.1f} s" if took.seconds < 600 else f"{took.seconds / 60:.1f} min"
    return {
        "time": seconds + (", since it resumed from a checkpoint" if took.resumed else ""),
        "images": f"{took.images}, {took.images / max(took.seconds, 1e-9):.3g} a second",
        "memory, at most": "unknown" if took.memory is None else format_bytes(took.memory),
        "GPU memory, at most": "none" if took.gpu_memory is None else format_bytes(took.gpu_memory),
        **took.environment,
    }


def find_differing_keys(runs: list[Run]) -> dict[str, list[str]]:
    """Return the keys of the configurations whose values differ between runs, with the value of each run."""
    flat = [dict(_flattened(yaml.safe_load(run.config))) if run.config else {} for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    by_key = {key: [values.get(key, "") for values in flat] for key in keys}
    return {key: values for key, values in by_key.items() if len(set(values)) > 1}


def _flattened(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield KEY.KEY and the value, as one line of YAML, for each value that is no dictionary."""
    if isinstance(values, dict) and values:
        for name, inner in values.items():
            yield from _flattened(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, yaml.safe_dump(values, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
