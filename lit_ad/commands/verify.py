"""`lit-ad verify`."""

from pathlib import Path

from tabulate import tabulate

from lit_ad.detector.exported import load_exported
from lit_ad.detector.run_files import EXPORTED, find_detector
from lit_ad.detector.self_check import REFUSED, Row, SelfCheck
from lit_ad.detector.verification import compare_and_keep, judge_result
from lit_ad.errors import UserError

COLUMNS = ("image", "batch", "checkpoint", "here", "score differs", "map differs")


def verify(file: Path, /, device: str = "cpu") -> None:
    """Compare an exported file with its checkpoint on this machine, on the images that it carries.

    The images are judged one at a time, and all in one batch. Each row of the table has an image's score by the
    checkpoint, its score here, and the largest relative differences of score and map. The exit code is 1 if the file is
    refused.

    Args:
        file: An exported file.
        device: cpu. For an .onnx file also cuda or tensorrt; for an .xml file OpenVINO's name, such as GPU.

    Raises:
        UserError: The file is a checkpoint, carries no images, or is refused.
    """
    path = find_detector(file)
    if path.suffix not in EXPORTED:
        raise UserError(f"{path} is a checkpoint, so there is nothing to compare it with: give an exported file")
    loaded = load_exported(path, device)
    if loaded.check is None:
        raise UserError(f"{path} carries no images to compare on: export it again, without --self_check false")
    check = SelfCheck.from_text(loaded.check, path)
    sizes = sorted({1, len(check.images)})
    by_size = {size: compare_and_keep(loaded, check, path, device, size) for size in sizes}
    rows = [_make_row(number, size, row) for size, each in by_size.items() for number, row in enumerate(each.rows, 1)]
    print(f"{path} on {loaded.runtime}, device {device}")
    print(tabulate(rows, COLUMNS, tablefmt="pipe", colalign=["right"] * len(COLUMNS), disable_numparse=True))
    print(f"Tolerance {check.tolerance:.0e}; more than {REFUSED * check.tolerance:.0e} is refused")
    worst = max(by_size.values(), key=lambda comparison: comparison.largest)
    judge_result(worst, loaded, path)
    if worst.agrees:
        print("The file computes what the checkpoint did")


def _make_row(number: int, batch: int, row: Row) -> list[str]:
    """Return the cells of an image's row in the table."""
    scores, differences = (row.expected, row.score), (row.score_difference, row.map_difference)
    return [str(number), str(batch), *(f"{value:.6g}" for value in scores), *(f"{value:.1e}" for value in differences)]
