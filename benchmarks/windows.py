"""Compare two inputs of methods for whole images: overlapping windows of a large image, and the image shrunken.

Prints Markdown.

    python benchmarks/windows.py --root ../shared/data/glass_fibre \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors      # 7 minutes of one core

Each method is trained twice with the same number of steps and of inputs of 256 x 256: on images shrunken to this size,
and on random windows of this size from the original images. A test by windows cuts a grid of windows that share
`--overlap` pixels, blends their maps, and scores the map as the method does.

The second table measures seams on nominal test images, with an overlap of 0, a quarter and half of a window. A jump is
the mean absolute difference of the map between the pixels on both sides of a line. The column has the largest jump of
the lines where two windows meet, divided by the median jump of the other lines, in the direction where this is larger.
The level is the mean of the map where windows meet, divided by its mean elsewhere.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lit_ad
from lit_ad.image.tiling import Grid

CONFIGS = {"Dinomaly": "dinomaly_deit_tiny", "INP-Former": "inp_former_deit_tiny"}
METRICS = ("image_auroc", "pixel_auroc", "aupro_30", "aupimo", "pixel_f1_max", "pixel_f1", "instance_recall")
SIZE = 256  # side of an input in pixels


def train(method: str, windows: bool, options: argparse.Namespace, home: Path) -> lit_ad.Run:
    """Train and test a method on shrunken images or on windows, with its configuration for a CPU."""
    size = {"image_size": None, "tile": SIZE, "overlap": options.overlap} if windows else {"image_size": SIZE}
    keys = {
        **{"model.weights": str(options.weights), "model.view": size, "trainer.max_steps": options.steps},
        **{"data.batch_size": options.batch_size, "data.loading.cache_images": True, "heatmaps.enabled": False},
        **{"data.loading.train_tiles": "random", "cache.enabled": False, "decision.false_alarm": 0.1},
        **{"trainer.default_root_dir": str(home), "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False},
    }
    if not windows:
        del keys["data.loading.train_tiles"]
    return lit_ad.fit(CONFIGS[method], options.root, keys)


def measure_seams(run: lit_ad.Run, overlap: int, images: list[Path]) -> tuple[float, float]:
    """Return the jump and the level where windows meet, each divided by its value elsewhere."""
    detector = run.detector()
    card = replace(detector.card, view=replace(detector.card.view, overlap=overlap))
    detector = lit_ad.Detector(detector.network, card, detector.network_for)
    maps = []
    for image in images:
        anomaly_map = detector(image).anomaly_map
        assert anomaly_map is not None
        maps.append(anomaly_map)
    jumps, levels = zip(*(measure_axis(np.stack(maps), axis, overlap) for axis in (1, 2)), strict=True)
    return max(jumps), float(np.mean(levels))


def measure_axis(maps: NDArray[np.float32], axis: int, overlap: int) -> tuple[float, float]:
    """Return jump and level of maps (n, H, W) where windows meet along an axis: see `measure_seams`."""
    length = maps.shape[axis]
    other = 3 - axis  # of 1 and 2
    jump = np.abs(np.diff(maps, axis=axis)).mean(axis=(0, other))  # (length - 1,): between line i and i + 1
    meet, near = np.zeros(length - 1, bool), np.zeros(length, bool)
    grid = Grid((length, length), SIZE, overlap)
    for start, before in zip(grid.rows[1:], grid.rows, strict=False):
        meet[start - 1 : before + SIZE] = True  # one line without overlap, or all lines that two windows share
        near[max(0, start - 4) : before + SIZE + 4] = True
    level = maps.mean(axis=(0, other))
    return float(jump[meet].max() / np.median(jump[~meet])), float(level[near].mean() / level[~near].mean())


def print_row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--weights", type=Path, required=True, help="weights of DeiT-tiny")
    parser.add_argument("--methods", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--images", type=int, default=2, help="nominal images for the seams")
    options = parser.parse_args()
    nominal = [s.image for s in lit_ad.MVTec(options.root).samples() if s.split == "test" and s.label == 0]
    lines: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            for windows in (False, True):
                begin = time.process_time()
                run = train(method, windows, options, Path(folder, method, str(windows)))
                row = run.metrics["pooled"]
                verdicts = f"{row['false_alarms']:.0f}/{row['nominal_images']:.0f}"
                verdicts += f" / {row['misses']:.0f}/{row['anomalous_images']:.0f}"
                what = f"windows of {SIZE}" if windows else f"shrunken to {SIZE}"
                figures = [f"{row[name]:.3f}" for name in METRICS]
                lines.append((method, what, *figures, verdicts, f"{time.process_time() - begin:.0f} s"))
            for overlap in (0, SIZE // 4, SIZE // 2):
                jump, level = measure_seams(run, overlap, nominal[: options.images])
                lines.append((method, overlap, f"{jump:.2f}", f"{level:.3f}"))
    print()
    print_row("method", "input", *METRICS, "false alarms / misses", "processor time")
    print_row(*["---"] * (len(METRICS) + 4))
    for line in lines:
        if len(line) > 4:
            print_row(*line)
    print()
    print_row("method", "overlap", "jump", "level")
    print_row(*["---"] * 4)
    for line in lines:
        if len(line) == 4:
            print_row(*line)


if __name__ == "__main__":
    main()
