"""Methods that look at a whole image, on overlapping windows of a larger one, against the image shrunken. Markdown.

    python benchmarks/windows.py --root ../shared/data/glass_fibre \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors      # 7 minutes of one core

Each method is trained twice, in as many steps on as many inputs of 256 x 256: the image shrunken to that size, and
random windows of that size of the image as it is. A test by windows cuts a grid of them that share `--overlap` pixels,
blends their maps, and scores the map as the method does.

Seams: on nominal test images, of a detector by windows with an overlap of none, a quarter and half of a window. A jump
is the mean absolute difference of the map between a pixel and the next one across a line of pixels. The figure is the
largest jump of the lines where two windows meet, over the median of the other lines, in the direction where that is
larger. The level is the map's mean where windows meet, over its mean elsewhere.
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
SIZE = 256  # of an input


def train(method: str, windows: bool, options: argparse.Namespace, home: Path) -> lit_ad.Run:
    """Train and test a method by its configuration for a CPU, on shrunken images or on windows."""
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


def seams(run: lit_ad.Run, overlap: int, images: list[Path]) -> tuple[float, float]:
    """The jump and the level where windows meet, each over that elsewhere."""
    detector = run.detector()
    card = replace(detector.card, view=replace(detector.card.view, overlap=overlap))
    detector = lit_ad.Detector(detector.network, card, detector.network_for)
    maps = []
    for image in images:
        anomaly_map = detector(image).anomaly_map
        assert anomaly_map is not None
        maps.append(anomaly_map)
    jumps, levels = zip(*(along(np.stack(maps), axis, overlap) for axis in (1, 2)), strict=True)
    return max(jumps), float(np.mean(levels))


def along(maps: NDArray[np.float32], axis: int, overlap: int) -> tuple[float, float]:
    """Jump and level of maps (n, H, W) where windows meet along an axis."""
    length = maps.shape[axis]
    other = 3 - axis  # of 1 and 2
    jump = np.abs(np.diff(maps, axis=axis)).mean(axis=(0, other))  # (length - 1,): between line i and i + 1
    meet, near = np.zeros(length - 1, bool), np.zeros(length, bool)
    grid = Grid((length, length), SIZE, overlap)
    for start, before in zip(grid.rows[1:], grid.rows, strict=False):
        meet[start - 1 : before + SIZE] = True  # a line of no overlap, or all those that two windows share
        near[max(0, start - 4) : before + SIZE + 4] = True
    level = maps.mean(axis=(0, other))
    return float(jump[meet].max() / np.median(jump[~meet])), float(level[near].mean() / level[~near].mean())


def print_row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--weights", type=Path, required=True, help="DeiT-tiny's")
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
                jump, level = seams(run, overlap, nominal[: options.images])
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
