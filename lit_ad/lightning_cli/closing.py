"""The lines that fit, validate and test print at their end: results, files, and the next command."""

from pathlib import Path

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import describe_rate
from lit_ad.training.run_directory import TESTED, quote_path

_OF_TEST = ("metrics.json", "scores.csv", "report.html", "heatmaps")
_OF_RUN = ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", *_OF_TEST)


def describe_run(home: Path) -> list[str]:
    """Return a line that names the files of a training's directory, and one with the command for new images.

    A directory below the working directory is named relative to it, which is shorter to read and to copy.
    """
    files, here = _list_existing_files(home, _OF_RUN), Path.cwd()
    shown = home.relative_to(here) if here in home.parents else home
    lines = [f"This run is in {shown}: {', '.join(files)}"]
    if "config.yaml" in files and any(file.endswith(".ckpt") for file in files):
        lines.append(f"Next: lit-ad predict {quote_path(shown)} FOLDER_OF_IMAGES")
    return lines


def describe_validation(loss: float | None, count: int, decision: Decision | None) -> list[str]:
    """Return lines with the loss of `count` held-out images, and the threshold that their scores give."""
    lines = [] if loss is None else [f"val/loss {loss:.6g} of {format_count(count, 'held-out nominal image')}"]
    if decision is not None:
        point = decision.operating_point()
        rate = f" at a false-alarm rate of {describe_rate(decision)}"
        lines.append(f"threshold {point}" if point.by_hand else f"threshold {point.threshold:.6g}{rate}")
    return [*lines, "validate saves nothing: the checkpoint keeps its decision"]


def describe_test(home: Path) -> list[str]:
    """Return a line that names the files of a test, and says if an earlier test stays."""
    earlier = "; the earlier test stays" if home.name.startswith("test") and (home.parent / TESTED).is_file() else ""
    return [f"{', '.join(_list_existing_files(home, _OF_TEST))} are in {home}{earlier}"]


def _list_existing_files(home: Path, names: tuple[str, ...]) -> list[str]:
    """Return those of the names whose files exist in a directory."""
    return [name for name in names if (home / name).exists()]
