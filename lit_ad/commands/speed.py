"""`lit-ad speed`."""

import json
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from lit_ad.commands.detector_argument import require_detector
from lit_ad.data.sources.images import list_and_tell
from lit_ad.errors import UserError, check_number, describe_exit

PROGRAM = """from pathlib import Path
from lit_ad.commands.own_method import import_own_method
from lit_ad.deploy.speed import measure
import_own_method(Path({file!r}))
measure(*{task!r})"""
COLUMNS = ("file", "runtime", "precision", "batch", "p50 ms", "p95 ms", "images/s", "peak MiB", "file MiB")


def speed(
    files: list[Path],
    /,
    batch: list[int] | None = None,
    seconds: float = 5.0,
    images: Path | None = None,
    device: str = "cpu",
    weights: Path | None = None,
) -> None:
    """Measure how fast checkpoints and exported files are on this machine, each in a process of its own.

    Print a table with a row for each file and batch size: median and 95th percentile of a batch's time, images/s, peak
    memory, and size of the file.

    Args:
        files: Runs, checkpoints and exported files.
        batch: Batch sizes. None: 1 and 4.
        seconds: Seconds for which each row is measured.
        images: A folder of images: the time from files to verdicts. None: that of the network alone, on random pixels.
        device: cpu, cuda or cuda:1. For an .onnx file also tensorrt; for an .xml file OpenVINO's name, such as GPU.
        weights: The teacher's weights, if a checkpoint does not find them.

    Raises:
        UserError: A number is out of its range, or a file is missing or cannot be measured.
    """
    check_number("--seconds", seconds, least=0, above=True)
    for size in batch or ():
        check_number("--batch", size, least=1)
    paths = [str(sample.image) for sample in list_and_tell(images)] if images else []
    rows = []
    for file in [require_detector("speed", file, None) for file in files]:
        for size in batch or [1, 4]:
            task = [str(file), str(size), str(seconds), json.dumps(paths), device, str(weights or "")]
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM.format(file=str(file), task=task)],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [""])[-1]
                reason = last if done.returncode > 0 and last else describe_exit(done.returncode)
                raise UserError(f"cannot measure {file}: {reason}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print("The network alone" if images is None else f"From the files in {images} to verdicts")
    cells, sides = [[str(row[name]) for name in COLUMNS] for row in rows], ["left"] * 3 + ["right"] * 6
    print(tabulate(cells, COLUMNS, tablefmt="pipe", colalign=sides, disable_numparse=True))
    best = max(rows, key=lambda row: float(row["images/s"]))
    print(f"Fastest here: {best['runtime']}, {best['precision']}, batches of {best['batch']} ({best['file']})")
