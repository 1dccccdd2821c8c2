"""The speed of one detector on this machine.

It is measured in a process of its own, which imports only what the detector needs, so that the peak memory is right.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from lit_ad.detector.detector import Detector
from lit_ad.machine import peak_memory

_RUNTIMES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export", ".ckpt": "PyTorch"}


def measure(file: str, batch: str, seconds: str, images: str, device: str, weights: str) -> None:
    """Measure a detector, and print one row of the table of `lit-ad speed` as JSON.

    All arguments are texts, because they come from a command line.

    Args:
        file: The exported file or checkpoint.
        batch: The batch size.
        seconds: How long to measure.
        images: A JSON list of image files to judge. "[]": only the network is measured, on random pixels.
        device: The device, such as cpu.
        weights: The teacher's weights, or "".
    """
    path, size = Path(file), int(batch)
    detector = Detector.load(path, weights or None, device)
    times = (
        time_files(detector, json.loads(images), size, float(seconds))
        if images != "[]"
        else time_network(detector, size, float(seconds))
    )
    row: dict[str, Any] = {"file": path.name, "runtime": _RUNTIMES[path.suffix], "precision": detector.card.precision}
    row |= {"batch": size, "p50 ms": f"{1e3 * np.quantile(times, 0.5):.1f}"}
    row |= {"p95 ms": f"{1e3 * np.quantile(times, 0.95):.1f}", "images/s": f"{size / np.mean(times):.1f}"}
    size_in_bytes = path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)
    memory = peak_memory()
    row["peak MiB"] = "" if memory is None else str(round(memory / 2**20))
    print(json.dumps(row | {"file MiB": f"{size_in_bytes / 2**20:.1f}"}))


def time_network(detector: Detector, size: int, seconds: float) -> list[float]:
    """Run the network on batches of random pixels for some seconds. Return the seconds of each batch."""
    black = detector.card.view.black_input(size)
    pixels = np.random.default_rng(0).integers(0, 256, black.shape, dtype=np.uint8)
    for _ in range(3):
        detector.network(pixels)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        detector.network(pixels)
        times.append(time.perf_counter() - start)
    return times


def time_files(detector: Detector, paths: list[str], size: int, seconds: float) -> list[float]:
    """Judge image files for some seconds. Return the seconds of each batch.

    With a batch size of 1, each time is the latency of one file. With larger batches, all files are judged as a stream,
    again and again, and each time is the mean time of a batch in one pass through the files.
    """
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
