"""`lit-ad report RUN...`: the page of a run's test, or of several beside one another, from what their directories hold.

The same images, the heatmaps of each run, and where they disagree. Neither data nor models are needed.
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from lit_ad.evaluation.report.page import PAGE, write_page


def report(runs: list[Path], output: Path | None = None) -> None:
    """Write one HTML file that opens without a network.

    Args:
        runs: Directories of runs that were tested.
        output: The file. None: RUN/report.html of one run, report.html here of several.
    """
    file = output or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    write_page(runs, file)
    print(f"Open {file.absolute()} in a browser")


def main(args: list[str]) -> None:
    """The command, given what follows `lit-ad report`."""
    parser = ArgumentParser(prog="lit-ad report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="Directories of runs that were tested.")
    parser.add_function_arguments(report, skip={"runs"})
    report(**parser.parse_args(args).as_dict())
