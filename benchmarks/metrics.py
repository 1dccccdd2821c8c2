"""Compare our pixel metrics with torchmetrics and a naive AUPRO: speed, memory and error. Prints Markdown tables.

    python benchmarks/metrics.py                           # 200 maps of 1024x1024: 10 minutes and 8 GB of memory
    python benchmarks/metrics.py --maps 20 --size 256      # seconds

Each measurement is a new process with two threads, on the same random maps, which are made one at a time. Extra memory
is the peak of the process minus the peak of a process that only makes the maps.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

from lit_ad.metrics import AUPIMO, AUPRO, PixelAUROC, PixelEvaluation
from lit_ad.metrics.instances import Instances

LIMIT = 0.3
MARKED = 4.0  # scores above this are marked as anomalous: 3e-5 of the nominal ones


def random_maps(number: int, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield Gaussian scores (size, size) and masks. In every second map, up to four discs are anomalous: 1.5 higher."""
    axis = np.arange(size)
    for index in range(number):
        random = np.random.default_rng(index)
        mask = np.zeros((size, size), bool)
        for _ in range(random.integers(1, 5) if index % 2 else 0):
            row, column, radius = [*random.uniform(0, size, 2).tolist(), random.uniform(size / 100, size / 10)]
            mask |= (axis[:, None] - row) ** 2 + (axis - column) ** 2 <= radius**2
        scores = random.standard_normal((size, size), dtype=np.float32)
        scores[mask] += 1.5
        yield torch.from_numpy(scores), torch.from_numpy(mask)


def naive_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """Compute AUPRO as MVTec's evaluation defines it, step by step: sort all scores, weigh each region by itself."""
    weights, nominal, regions = [], [], 0
    for mask in masks:
        labels, number = label(mask, np.ones((3, 3)))
        weight = np.zeros(mask.shape)
        for region in range(1, number + 1):
            inside = labels == region
            weight[inside] = 1 / inside.sum()
        regions += number
        weights.append(weight.ravel())
        nominal.append((labels == 0).ravel())
    scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    fpr = np.cumsum(np.concatenate(nominal)[order], dtype=np.float64)
    pro = np.cumsum(np.concatenate(weights)[order])
    last = np.append(scores[1:] != scores[:-1], True)
    fpr, pro = np.append(0, fpr[last] / fpr[-1]), np.append(0, np.minimum(pro[last] / regions, 1))
    at_limit = np.interp(limit, fpr, pro)
    fpr, pro = np.append(fpr[fpr < limit], limit), np.append(pro[fpr < limit], at_limit)
    return float(trapezoid(pro, fpr) / limit)


def run_nothing(maps: int, size: int) -> dict[str, Any]:
    for _ in random_maps(maps, size):
        pass
    return {"seconds": 0.0}


def run_metric(metric: Any, maps: int, size: int) -> dict[str, Any]:
    """Update and compute a metric. Return its value and the seconds, without those for making the maps."""
    spent = 0.0
    for scores, mask in random_maps(maps, size):
        start = time.perf_counter()
        if isinstance(metric, BinaryAUROC):
            metric.update(scores.flatten(), mask.flatten().long())
        elif isinstance(metric, Instances):
            metric.update("all", mask.numpy(), scores.numpy() > MARKED)
        else:
            metric.update(scores, mask)
        spent += time.perf_counter() - start
    start = time.perf_counter()
    value = metric.compute_rows({"all": {"all"}})["all"] if isinstance(metric, Instances) else metric.compute()
    result = {"seconds": spent + time.perf_counter() - start}
    result["value"] = value.get("aupro_30", value.get("instance_recall")) if isinstance(value, dict) else float(value)
    return result


def run_naive(maps: int, size: int) -> dict[str, Any]:
    pairs = [(scores.numpy(), mask.numpy()) for scores, mask in random_maps(maps, size)]
    start = time.perf_counter()
    value = naive_aupro(*(list(part) for part in zip(*pairs, strict=True)), limit=LIMIT)
    return {"seconds": time.perf_counter() - start, "value": value}


RUNS = {
    "nothing": run_nothing,
    "PixelAUROC": lambda maps, size: run_metric(PixelAUROC(), maps, size),
    "torchmetrics BinaryAUROC": lambda maps, size: run_metric(BinaryAUROC(normalization=None), maps, size),
    "AUPRO": lambda maps, size: run_metric(AUPRO(LIMIT), maps, size),
    "naive AUPRO": run_naive,
    "PixelEvaluation": lambda maps, size: run_metric(PixelEvaluation(), maps, size),
    "AUPIMO": lambda maps, size: run_metric(AUPIMO(), maps, size),
    "Instances": lambda maps, size: run_metric(Instances(), maps, size),
}


def distributions(pixels: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield distributions of scores that are difficult for bins: name, scores and targets. 5 % are anomalous."""
    random = np.random.default_rng(0)
    target = random.random(pixels) < 0.05
    normal = random.standard_normal(pixels, dtype=np.float32) + target
    yield "Gaussian", normal, target
    yield "in [0.979, 0.981]", (0.979 + 0.002 / (1 + np.exp(-normal))).astype(np.float32), target
    yield "1e-12", np.float32(1e-12) * np.abs(normal), target
    yield "1e6", np.float32(1e6) * normal, target
    yield "90 % ties", np.where(random.random(pixels) < 0.9, np.float32(0.7), normal), target
    yield "bfloat16", torch.from_numpy(normal).bfloat16().float().numpy(), target
    yield "negative", -np.exp(-normal), target


def run_certificates(maps: int, size: int) -> dict[str, Any]:
    rows = []
    for name, scores, target in distributions(maps * size * size):
        metric = PixelAUROC()
        for part in range(maps):
            image = slice(part * size * size, (part + 1) * size * size)
            metric.update(torch.from_numpy(scores[image]), torch.from_numpy(target[image]))
        rows.append((name, abs(float(metric.compute()) - roc_auc_score(target, scores)), metric.certificate()))
    return {"rows": rows}


def run_in_process(name: str, maps: int, size: int) -> dict[str, Any]:
    """Run a measurement of RUNS in a new process. Its result has the peak memory in MB."""
    command = [sys.executable, __file__, "--maps", str(maps), "--size", str(size), "--only", name]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument(
        "--peer-maps", type=int, help="maps for the peers, if memory cannot hold all (12 bytes per pixel)"
    )
    parser.add_argument("--certificate-maps", type=int, default=20, help="pixels of each distribution, in maps")
    parser.add_argument("--only", choices=[*RUNS, "certificates"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(2)
        run = RUNS.get(arguments.only, run_certificates)
        result = run(arguments.maps, arguments.size)
        result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return

    def row(*cells: object) -> None:
        print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)

    peers = arguments.peer_maps or arguments.maps
    counts = sorted({math.ceil(arguments.maps / 4), math.ceil(arguments.maps / 2), arguments.maps, peers})
    base = run_in_process("nothing", min(counts), arguments.size)["memory"]
    results: dict[tuple[str, int], dict[str, Any]] = {}
    print(f"\nMaps of {arguments.size} x {arguments.size}, two threads:\n")
    row("metric", "maps", "update + compute, s", "ms a map", "extra memory, MB", "value")
    row("---", "--:", "--:", "--:", "--:", "--:")
    for name in (
        "PixelAUROC",
        "torchmetrics BinaryAUROC",
        "AUPRO",
        "naive AUPRO",
        "PixelEvaluation",
        "AUPIMO",
        "Instances",
    ):
        ours = name not in ("torchmetrics BinaryAUROC", "naive AUPRO")
        for maps in counts if ours else [peers]:
            result = results[name, maps] = run_in_process(name, maps, arguments.size)
            seconds, memory = result["seconds"], result["memory"] - base
            row(name, maps, f"{seconds:.1f}", f"{1000 * seconds / maps:.0f}", f"{memory:.0f}", f"{result['value']:.6f}")

    print(f"\nOn {peers} maps:\n")
    row("", "peer / ours, time", "peer / ours, extra memory", "difference of values")
    row("---", "--:", "--:", "--:")
    for ours, peer in (("PixelAUROC", "torchmetrics BinaryAUROC"), ("AUPRO", "naive AUPRO")):
        a, b = results[ours, peers], results[peer, peers]
        speed, memory = b["seconds"] / a["seconds"], (b["memory"] - base) / (a["memory"] - base)
        row(f"{ours} and {peer}", f"{speed:.1f}", f"{memory:.1f}", f"{abs(a['value'] - b['value']):.1e}")

    print(f"\nPixelAUROC on {arguments.certificate_maps * arguments.size**2} pixels:\n")
    row("scores", "difference from scikit-learn", "certificate")
    row("---", "--:", "--:")
    for name, error, bound in run_in_process("certificates", arguments.certificate_maps, arguments.size)["rows"]:
        row(name, f"{error:.1e}", f"{bound:.1e}" + ("" if error <= bound else " EXCEEDED"))


if __name__ == "__main__":
    main()
