"""How much slower a detector judges with a journal: processor seconds and wall time of streams, in pairs.

    python benchmarks/journal_cost.py DETECTOR IMAGES [--pairs 15] [--count 200] [--side 256]

Images are decoded and resized beforehand, so that judging alone counts. A pair judges the same images with a journal,
by its defaults, and without, in turn the one or the other first.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad import Detector
from lit_ad.data.sources.images import Images
from lit_ad.deploy.journal import Journal


def judge(detector: Detector, images: list[np.ndarray], folder: Path | None) -> tuple[float, float]:
    """Judge all of them, with a journal in a folder if there is one. Return processor seconds, and seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    if folder is None:
        for _ in detector.stream(images):
            pass
    else:
        with Journal(folder, detector) as journal:
            for _ in detector.stream(images, journal=journal):
                pass
    return time.process_time() - processor, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    detector = Detector.load(options.detector)
    paths = itertools.cycle(sample.image for sample in Images(options.images).samples()[:50])
    size = options.side, options.side
    decoded = {path: np.asarray(Image.open(path).convert("RGB").resize(size)) for path in itertools.islice(paths, 50)}
    images = [decoded[path] for path in itertools.islice(paths, options.count)]
    judge(detector, images[:20], None)
    ratios, alone = [], []
    for pair in range(options.pairs):
        with tempfile.TemporaryDirectory() as name:
            order: tuple[Path | None, Path | None] = (Path(name), None) if pair % 2 else (None, Path(name))
            seconds = {folder is not None: judge(detector, images, folder) for folder in order}
        alone.append(seconds[False][0] / options.count)
        ratios.append([kept / plain for kept, plain in zip(seconds[True], seconds[False], strict=True)])
    print(f"{options.pairs} pairs of {options.count} images; {1e3 * np.median(alone):.2f} processor ms an image alone")
    for name, values in zip(("processor", "wall"), np.transpose(ratios), strict=True):
        low, median, high = np.percentile(values, [25, 50, 75])
        print(f"{name}: with a journal x {median:.4f} (quartiles {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
