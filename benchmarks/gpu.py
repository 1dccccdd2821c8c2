"""One CUDA GPU, whole, in one call: the tests marked gpu, then how fast it trains and judges. Prints tables.

    make gpu                                              # about 8 minutes
    python benchmarks/gpu.py --without-tests --methods STFPM Dinomaly --output gpu.json

It needs a checkout and its packages, and nothing else: weights are random, which costs nothing in time, and images are
noise that is drawn here. Networks, sizes and batches are those of the papers. `bare` is forward, loss, backward and
optimizer on images and features that lie on the GPU: the ceiling. `fit` is lit_ad as it is by default, with images read
from JPEG files. Either runs the teacher in every step, or has cached features. Of the epochs but the first, the median.
Memory is the most that PyTorch has had in use. anomalib is measured where it is installed. What fails is told in its
cell, and the others go on; what was not reached when --minutes were over is left empty.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import lightning as L
import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from training import Case, method, run_anomalib, save_weights

from lit_ad.batch import Others
from lit_ad.commands.main import prepare, quiet
from lit_ad.data import AnomalyDataModule, MVTec, Perlin, Split
from lit_ad.deploy import speed
from lit_ad.detector.detector import Detector
from lit_ad.machine import cores
from lit_ad.training import Calibration, FeatureCache

ROOT = Path(__file__).parents[1]
CASES = {
    "STFPM": Case("resnet18", 256, 32, 8, peer="Stfpm"),
    "ReverseDistillation": Case("wide_resnet50_2", 256, 16, 12, peer="ReverseDistillation"),
    "ReContrast": Case("wide_resnet50_2", 256, 16, 12),
    "DeSTSeg": Case("resnet18", 256, 32, 8),
    "Dinomaly": Case("vit_base_patch14_reg4_dinov2", 392, 16, 6, peer="Dinomaly"),
    "INPFormer": Case("vit_base_patch14_reg4_dinov2", 392, 16, 6),
    "L2BT": Case("vit_base_patch14_reg4_dinov2", 1036, 4, 8, peer="L2BT"),
    "EfficientAD": Case("pdn", 256, 1, 60, peer="EfficientAd"),
    "FoundAD": Case("vit_base_patch14_dinov2", 518, 8, 8),
    "Transformaly": Case("vit_base_patch16_384", 384, 32, 5),
    "MKD": Case("vgg16", 128, 64, 4),
    "MixedTeacher": Case("resnet18", 256, 8, 24),
    "DCAM": Case("resnet18", 256, 32, 8),
    "DSKD": Case("resnet18", 256, 16, 16),
}
TRAINING = {  # column: precision, and whether features are ready; None: the bare step
    "bare, teacher": ("32-true", False, True),
    "fit, teacher": ("32-true", False, False),
    "bare, cached": ("32-true", True, True),
    "fit, cached": ("32-true", True, False),
    "bare, teacher, bf16": ("bf16-mixed", False, True),
    "fit, teacher, bf16": ("bf16-mixed", False, False),
}
EPOCHS = 3
FILES, SIDE = 257, 512  # of the folder: 256 train, one is held out


def draw_images(home: Path) -> Path:
    """A folder in MVTec AD's layout, of JPEG files of noise with some structure."""
    generator = np.random.default_rng(0)
    for name, count in (("train/good", FILES), ("test/good", 8), ("test/bad", 8)):
        (home / name).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE)).save(home / name / f"{i:03}.jpg", quality=90)
    return home


class Clock(L.Callback):
    """Seconds of every training epoch, when all that the GPU was given is done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def run_bare(name: str, weights: str, precision: str, cached: bool) -> float:
    """Images/s of the training step on tensors that lie on the GPU."""
    case = CASES[name]
    model = method(name, weights, case).cuda()
    images, unrelated = torch.rand(2, case.batch, 3, case.size, case.size, device="cuda")
    others = Others(unrelated) if name == "EfficientAD" else Others(None, unrelated, images[:, :1] > 0.5)
    model.trainer = SimpleNamespace(estimated_stepping_batches=100, global_step=0, world_size=1)
    made = model.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    model.train()

    def describe() -> Any:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return model.describe(images)

    features = describe()

    def step() -> None:
        given = features if cached else describe()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = model.training_loss(images, given, others)
        loss.backward()
        if model.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), model.clip)
        optimizer.step()

    seconds = []
    for _ in range(EPOCHS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(min(case.batches, 16)):
            step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return case.batch * min(case.batches, 16) / statistics.median(seconds[1:])


def run_fit(name: str, weights: str, precision: str, cached: bool, images: Path, keep: Path | None = None) -> float:
    """Images/s of the same by Lightning, from files. `keep`: where the checkpoint is to be written."""
    case, clock = CASES[name], Clock()
    model = method(name, weights, case)
    with tempfile.TemporaryDirectory() as home:
        unrelated = images / "train/good" if name == "EfficientAD" else None
        corrupt = Perlin() if name in ("DeSTSeg", "FoundAD") else None
        data = AnomalyDataModule(
            MVTec(images), model.view, case.batch, split=Split(val_fraction=1e-9), unrelated=unrelated, corrupt=corrupt
        )
        trainer = L.Trainer(
            accelerator="gpu",
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=EPOCHS,
            limit_train_batches=case.batches,
            callbacks=[Calibration(), FeatureCache(cached, Path(home)), clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=home,
        )
        trainer.fit(model, datamodule=data)
        if keep is not None:
            trainer.save_checkpoint(keep)
    return case.batch * case.batches / statistics.median(clock.seconds[1:])


def measure(work: Callable[[], float]) -> dict[str, Any]:
    """Images/s and GiB of one measurement, or its error."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        value = work()
    except Exception as error:
        torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    gib = torch.cuda.max_memory_allocated() / 2**30
    return {"images/s": value, "GiB": gib, "took": time.perf_counter() - start}


def training(options: argparse.Namespace, home: Path, images: Path, deadline: float) -> Iterator[tuple[str, str, Any]]:
    """Method, column and what was measured."""
    for name in options.methods:
        weights = str(save_weights(CASES[name], home))
        for column, (precision, cached, bare) in TRAINING.items():
            if time.monotonic() > deadline:
                return
            kept = home / f"{name}.ckpt" if column == "fit, teacher" and name in options.judges else None
            work = partial(run_bare if bare else run_fit, name, weights, precision, cached)
            yield name, column, measure(work if bare else partial(work, images, kept))
        if CASES[name].peer and importlib.util.find_spec("anomalib"):
            given = argparse.Namespace(images=images / "train/good", anomalib_workers=8)
            yield name, "anomalib", measure(partial(peer_speed, name, given))


def peer_speed(name: str, options: argparse.Namespace) -> float:
    return run_anomalib(name, options, CASES[name], "gpu")["wall"]


def judging(name: str, file: Path, images: Path) -> Iterator[dict[str, Any]]:
    """Rows of how fast a detector is: its network alone, and a folder of files by all cores."""
    files = [str(path) for path in sorted((images / "train/good").iterdir())]
    for batch in (1, 8, 32):
        row: dict[str, Any] = {"method": name, "batch": batch}
        measured = measure(partial(judge_folder, file, batch, files, row))
        yield row | {key: measured[key] for key in ("GiB", "error") if key in measured}


def judge_folder(file: Path, batch: int, files: list[str], row: dict[str, Any]) -> float:
    """Write what a detector on the GPU does into its row; images/s from files."""
    detector = Detector.load(file, device="cuda")
    alone = speed.network(detector, batch, 1.0)
    row |= {"network p50 ms": 1e3 * statistics.median(alone), "network images/s": batch / statistics.mean(alone)}
    whole = speed.folder(detector, files, batch, 2.0)
    row |= {"folder images/s": batch / statistics.mean(whole)}
    return row["folder images/s"]


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def run_tests(seconds: float) -> dict[str, Any]:
    """The tests marked gpu: what pytest says of them, and the figures that they recorded."""
    workers = min(12, cores()) if importlib.util.find_spec("xdist") else 1
    parallel = ["-n", str(workers)] if workers > 1 else []
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-rs", "--tb=short", "tests/test_gpu.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // workers))}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, f"--junitxml={file}", *parallel], cwd=ROOT, env=environment, timeout=seconds)
        if not file.is_file():
            return {"error": f"not ended after {seconds:.0f} s"}
        suite = ElementTree.parse(file).getroot()[0]
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    figures = {
        case.attrib["name"]: {found.attrib["name"]: found.attrib["value"] for found in case.iter("property")}
        for case in suite.iter("testcase")
    }
    return {**counts, "figures": {name: values for name, values in figures.items() if values}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--judges", nargs="*", choices=CASES, default=["STFPM", "ReverseDistillation", "Dinomaly"])
    parser.add_argument("--without-tests", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is begun")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this machine has no CUDA GPU that PyTorch sees")
    deadline = time.monotonic() + 60 * options.minutes
    prepare()
    quiet()
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "cores": cores(),
        "torch": torch.__version__,
        "tests": None if options.without_tests else run_tests(60 * options.minutes / 2),
        "training": {},
        "judging": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        images = draw_images(home / "data")
        for name, column, value in training(options, home, images, deadline):
            print(name, column, value, flush=True)
            found["training"].setdefault(name, {})[column] = value
            kept = home / f"{name}.ckpt"
            for row in judging(name, kept, images) if column == "fit, teacher" and kept.is_file() else ():
                print(row, flush=True)
                found["judging"].append(row)
            options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"\n{found['gpu']}, {found['cores']} cores, PyTorch {found['torch']}; tests: {found['tests']}\n")
    columns = [*TRAINING, "anomalib"]
    rows = []
    for name, values in found["training"].items():
        case = CASES[name]
        speeds = [
            cell(values.get(column, {}).get("images/s", values.get(column, {}).get("error"))) for column in columns
        ]
        gib = max(
            (value["GiB"] for column, value in values.items() if "fit" in column and "GiB" in value), default=None
        )
        rows.append([name, f"{case.backbone}, {case.batch} at {case.size}", *speeds, cell(gib)])
    print(tabulate(rows, ["method", "teacher, batch", *columns, "GiB"], tablefmt="pipe", disable_numparse=True))
    heads = ["method", "batch", "network p50 ms", "network images/s", "folder images/s", "GiB", "error"]
    lines = [[cell(row.get(head)) for head in heads] for row in found["judging"]]
    print(f"\n{tabulate(lines, heads, tablefmt='pipe', disable_numparse=True)}")


if __name__ == "__main__":
    main()
