"""What an unfinished prediction leaves, so that the same command judges only the images that are left."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lit_ad.annotations import Findings
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, explain_write_errors

UNFINISHED = "unfinished.json"  # model and images of the scores in PARTS; removed at the end, as PARTS are
DECISION = "unfinished-decision.json"  # the decision that made the regions in PARTS
PARTS = "scores.*.part"  # one file for each process; a line for each image: [path, score, error, findings] as JSON


class Line(NamedTuple):
    """A line of a part: an image's path below the given folder, its score, error and regions."""

    path: str
    score: float
    error: str
    findings: Findings | None = None  # regions; None without a pixel threshold, or if no file of regions is wanted


def choose_directory(wanted: Path, output: Path | None, about: dict[str, Any]) -> Path:
    """Return the directory to write: a new one, or that of an interrupted run that can be resumed.

    Args:
        wanted: The directory's path without a number.
        output: The directory that the user gave, or None.
        about: Weights, images and formats of regions. A run can be resumed if these are equal.

    Raises:
        UserError: `output` holds finished predictions, or those of another run.
    """
    number = 1
    while True:
        home = output or (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}"))
        begun, finished = home / UNFINISHED, (home / "scores.csv").exists()
        if not finished and (not begun.exists() or json.loads(begun.read_text(encoding="utf-8")) == about):
            return home
        if output is not None and (
            finished or about["weights"] is not None
        ):  # without weights, it is not known yet whether the run is the same
            content = (
                "predictions already"
                if finished
                else "unfinished predictions of another model, of other images, or with other keys of predictions"
            )
            raise UserError(f"{home} holds {content}: give another predictions.output")
        if output is not None:
            return home
        number += 1


def keep_decision(directory: Path, decision: Decision | None, resumed: bool, first: bool) -> None:
    """Keep the decision for a later run that resumes.

    Args:
        directory: The directory of the predictions.
        decision: The decision that makes verdicts and regions.
        resumed: Whether an earlier run has judged images.
        first: Whether this is the first process, which writes the file.

    Raises:
        UserError: The earlier run had another decision, so its regions and heatmaps would be others.
    """
    file, values = directory / DECISION, None if decision is None else decision.to_dict()
    text = json.dumps(values, sort_keys=True)
    if resumed and file.is_file() and file.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{directory} has unfinished predictions with other settings of decision: give the same ones, or another "
            f"predictions.output, or remove {directory}"
        )
    if first:
        with explain_write_errors(file), atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def format_line(path: str, score: float, error: str, findings: Findings | None = None) -> str:
    """Return the line of an image in a part. JSON escapes line breaks in the image's name."""
    return json.dumps([path, score, error, findings]) + "\n"


def read_part(part: Path) -> Iterator[Line]:
    """Yield the line of each image, without incomplete lines."""
    for line in part.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        with suppress(ValueError, TypeError):
            yield Line(*json.loads(line))
