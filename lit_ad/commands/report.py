"""`lit-ad report`."""

from pathlib import Path

from lit_ad.evaluation.report.page import PAGE, write_page


def report(runs: list[Path], /, output: Path | None = None) -> None:
    """Write the page of a run's test, or of several runs beside one another.

    It shows the same images, the heatmaps of each run, and where the runs disagree. It is one HTML file that opens
    without a network, made from what the directories of the runs hold: neither data nor models are needed.

    Args:
        runs: Directories of runs that were tested.
        output: The file. None: RUN/report.html of one run, report.html here of several.
    """
    file = output or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    write_page(runs, file)
    print(f"Open {file.absolute()} in a browser")
