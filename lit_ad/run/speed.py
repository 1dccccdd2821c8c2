"""`lit-ad speed FILE...`: how fast checkpoints and exported files are on this machine, each in a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from lit_ad.data.images import Images
from lit_ad.deploy.detector import Detector
from lit_ad.errors import UserError

RUNTIMES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export", ".ckpt": "PyTorch"}
COLUMNS = ("file", "runtime", "precision", "batch", "p50 ms", "p95 ms", "images/s", "peak MiB", "file MiB")


def speed(
    files: list[Path],
    batch: list[int] | None = None,
    seconds: float = 5.0,
    images: Path | None = None,
    device: str = "cpu",
    weights: Path | None = None,
) -> None:
    """Print a table: p50 and p95 of a batch's time, images/s, peak memory and size of each file.

    Args:
        files: Checkpoints and exported files.
        batch: Batch sizes. None: 1 and 4.
        seconds: That each row is measured for.
        images: Folder: from files to verdicts. None: the network alone, on random pixels of its size.
        device: cpu, or what the runtime calls another one.
        weights: The teacher's, if a checkpoint does not find them.
    """
    rows = []
    for file in files:
        for size in batch or [1, 4]:
            task = [str(file), str(size), str(seconds), str(images or ""), device, str(weights or "")]
            done = subprocess.run(
                [sys.executable, "-c", f"from lit_ad.run.speed import measure; measure(*{task!r})"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise UserError(f"{file} could not be measured: {done.stderr.strip().splitlines()[-1]}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print("The network alone" if images is None else f"From the files in {images} to verdicts")
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * 3 + " ---: |" * 6)
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in COLUMNS) + " |")
    best = max(rows, key=lambda row: float(row["images/s"]))
    print(f"Fastest here: {best['runtime']}, {best['precision']}, batches of {best['batch']} ({best['file']})")


def measure(file: str, batch: str, seconds: str, images: str, device: str, weights: str) -> None:
    """One row as JSON, on stdout."""
    path, size = Path(file), int(batch)
    detector = Detector.load(path, weights or None, device)
    times = folder(detector, images, size, float(seconds)) if images else network(detector, size, float(seconds))
    row: dict[str, Any] = {"file": path.name, "runtime": RUNTIMES[path.suffix], "precision": detector.card.precision}
    row |= {"batch": size, "p50 ms": f"{1e3 * np.quantile(times, 0.5):.1f}"}
    row |= {"p95 ms": f"{1e3 * np.quantile(times, 0.95):.1f}", "images/s": f"{size / np.mean(times):.1f}"}
    whole = path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)
    print(json.dumps(row | {"peak MiB": peak_memory(), "file MiB": f"{whole / 2**20:.1f}"}))


def network(detector: Detector, size: int, seconds: float) -> list[float]:
    """Seconds of each run of a batch."""
    view = detector.card.view
    side = view.tile or view.crop
    shape = (side, side) if side else view(np.zeros((*(view.size or (256, 256)), 3), np.uint8))[0].shape[:2]
    pixels = np.random.default_rng(0).integers(0, 256, (size, 3, *shape), dtype=np.uint8)
    for _ in range(3):
        detector.run(pixels)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        detector.run(pixels)
        times.append(time.perf_counter() - start)
    return times


def folder(detector: Detector, images: str, size: int, seconds: float) -> list[float]:
    """The same from files: of a batch of one, the latency of a file; of more, the mean of a stream."""
    paths = [sample.image for sample in Images(Path(images)).samples()]
    detector(paths[0])
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 5:
        before = time.perf_counter()
        if size == 1:
            detector(paths[len(times) % len(paths)])
            times.append(time.perf_counter() - before)
        else:
            count = sum(1 for _ in detector.stream(paths, batch_size=size))
            times.append((time.perf_counter() - before) / count * size)
    return times


def peak_memory() -> str:
    """Of this process, in MiB; unknown where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return str(round(peak / (2**20 if sys.platform == "darwin" else 2**10)))


def main(args: list[str]) -> None:
    """The command, given what follows `lit-ad speed`."""
    parser = ArgumentParser(prog="lit-ad speed", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="Checkpoints and exported files.")
    parser.add_function_arguments(speed, skip={"files"})
    speed(**parser.parse_args(args).as_dict())
