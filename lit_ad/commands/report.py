"""`lit-ad report`."""

from pathlib import Path

from lit_ad.evaluation.report.page import PAGE, write_page


def report(runs: list[Path], /, output: Path | None = None) -> None:
    """Write the page of a run's test, or one page that compares several runs.

    With several runs, the page shows the same images with the heatmaps of each run, and where the runs disagree. It is
    one HTML file that opens offline. It needs only the files in the runs' directories, and neither data nor
    models.

    Args:
        runs: Directories of runs that were tested.
        output: The file to write. None: RUN/report.html for one run; report.html in the working directory for several.

    Raises:
        UserError: A directory has no finished test, or the file cannot be written.
    """
    file = output or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    write_page(runs, file)
    print(f"Open {file.absolute()} in a browser")
