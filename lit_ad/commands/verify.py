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

    Print a row for each image, one at a time and all at once: the checkpoint's score and this runtime's, and
    the largest relative differences of the score and of the map. The exit code is 1 where the file is refused.

    Args:
        file: An exported file.
        device: cpu; cuda or tensorrt of an .onnx; of an .xml, what OpenVINO calls it, such as GPU.
    """
    path = find_detector(file)
    if path.suffix not in EXPORTED:
        raise UserError(f"{path} is a checkpoint, which is compared with nothing: give an exported file")
    loaded = load_exported(path, device)
    if loaded.check is None:
        raise UserError(f"{path} carries no images to be verified on: export it anew, without --self_check false")
    check = SelfCheck.from_text(loaded.check, path)
    sizes = sorted({1, len(check.images)})
    by_size = {size: compare_and_keep(loaded, check, path, device, size) for size in sizes}
    rows = [cells(number, size, row) for size, each in by_size.items() for number, row in enumerate(each.rows, 1)]
    print(f"{path} on {loaded.runtime}, device {device}")
    print(tabulate(rows, COLUMNS, tablefmt="pipe", colalign=["right"] * len(COLUMNS), disable_numparse=True))
    print(f"Tolerance {check.tolerance:.0e}; more than {REFUSED * check.tolerance:.0e} is refused")
    worst = max(by_size.values(), key=lambda comparison: comparison.largest)
    judge_result(worst, loaded, path)
    if worst.agrees:
        print("It computes what the checkpoint did")


def cells(number: int, batch: int, row: Row) -> list[str]:
    """A row of the table."""
    scores, differences = (row.expected, row.score), (row.score_difference, row.map_difference)
    return [str(number), str(batch), *(f"{value:.6g}" for value in scores), *(f"{value:.1e}" for value in differences)]
