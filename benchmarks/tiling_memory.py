"""Measure the peak memory of testing STFPM by tiles, for images of growing size. Prints a Markdown table.

    python benchmarks/tiling_memory.py --weights ../shared/weights/resnet18_stages1-3.safetensors      # a minute

For each size, a new process runs the real test loop on one image with a mask: tiles of 256 with overlap 64, all
metrics, and in the second column also the heatmap. Memory is the largest resident set of the process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (1024, 2048, 4096)


def write_images(home: Path, side: int) -> None:
    """Write two small training images and a large anomalous image with its mask, in MVTec AD's layout."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for name, size in (("train/good/0", 64), ("train/good/1", 64), ("test/dent/0", side)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(home / f"{name}.png")
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 3, side // 2 : side // 2 + 50] = 255
    (home / "ground_truth/dent").mkdir(parents=True)
    Image.fromarray(mask).save(home / "ground_truth/dent/0_mask.png")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Test the images in `options.home`, and return the peak memory of this process in MiB."""
    import lightning as L

    from lit_ad.data import AnomalyDataModule, Loading, MVTec
    from lit_ad.evaluation import Evaluation, Heatmaps
    from lit_ad.image.view import View
    from lit_ad.machine import keep_memory
    from lit_ad.methods import STFPM

    keep_memory()  # as the commands do
    view = View(None, tile=options.tile, overlap=options.overlap, tile_batch=options.tile_batch)
    model = STFPM(weights=options.weights, view=view)
    data = AnomalyDataModule(MVTec(options.home), model.view, loading=Loading(num_workers=0))
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[Evaluation(sinks=[Heatmaps(enabled=options.heatmaps)])],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=options.home,
    )
    trainer.test(model, datamodule=data, verbose=False)
    return {"mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights of ResNet-18: a file, or hub")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--tile-batch", type=int, default=8)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--heatmaps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.home:
        print(json.dumps(measure(options)))
        return
    peaks: dict[tuple[int, bool], float] = {}
    for side in SIZES:
        for heatmaps in (False, True):
            with tempfile.TemporaryDirectory() as home:
                # Written by another process: a child inherits the peak memory of this process, so it must stay small.
                subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        f"import {Path(__file__).stem} as it; from pathlib import Path; "
                        f"it.write_images(Path({home!r}), {side})",
                    ],
                    check=True,
                    cwd=Path(__file__).parent,
                )
                command = [sys.executable, __file__, *sys.argv[1:], "--home", home, *(["--heatmaps"] * heatmaps)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                peaks[side, heatmaps] = json.loads(done.stdout.strip().splitlines()[-1])["mebibytes"]
    print("| image | peak MiB | of 1024x1024 | with heatmap | of 1024x1024 |\n| --- | --- | --- | --- | --- |")
    for side in SIZES:
        cells = [f"{peaks[side, h]:.0f} | {peaks[side, h] / peaks[SIZES[0], h]:.2f}" for h in (False, True)]
        print(f"| {side}x{side} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
