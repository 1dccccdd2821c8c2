"""Run the tests marked gpu on a CUDA GPU, then measure how fast it trains and judges. Prints tables.

    make gpu                                              # about 8 minutes
    python benchmarks/gpu.py --without-tests --methods STFPM Dinomaly --output gpu.json

It needs only a checkout and its packages: weights are random, which makes no difference to the time, and the images are
random JPEG files. Networks, sizes and batches are those of the papers.

`bare` is the upper limit: forward pass, loss, backward pass and optimizer on images and features that are on the GPU.
`fit` is lit_ad with its defaults, which reads the images from files. Both are measured with the teacher in every step
and with cached features. A speed is the median of the epochs without the first; memory is PyTorch's peak. anomalib is
measured if it is installed. The cell of a measurement that fails has its error. Cells that were not measured within
--minutes are empty.
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
from training import Case, make_method, run_anomalib, save_weights

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
TRAINING = {  # column: precision, whether features are cached, whether it is the bare step
    "bare, teacher": ("32-true", False, True),
    "fit, teacher": ("32-true", False, False),
    "bare, cached": ("32-true", True, True),
    "fit, cached": ("32-true", True, False),
    "bare, teacher, bf16": ("bf16-mixed", False, True),
    "fit, teacher, bf16": ("bf16-mixed", False, False),
}
EPOCHS = 3
FILES, SIDE = 257, 512  # files of the folder (256 train, one is held out), and their side in pixels


def draw_images(home: Path) -> Path:
    """Write JPEG files of coarse noise to a folder in MVTec AD's layout, and return it."""
    generator = np.random.default_rng(0)
    for name, count in (("train/good", FILES), ("test/good", 8), ("test/bad", 8)):
        (home / name).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE)).save(home / name / f"{i:03}.jpg", quality=90)
    return home


class Clock(L.Callback):
    """Records the seconds of each training epoch, until the GPU has finished its work."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def run_bare(name: str, weights: str, precision: str, cached: bool) -> float:
    """Return images per second of the bare training step, on tensors that are on the GPU."""
    case = CASES[name]
    model = make_method(name, weights, case).cuda()
    images, unrelated = torch.rand(2, case.batch, 3, case.size, case.size, device="cuda")
    others = Others(unrelated) if name == "EfficientAD" else Others(None, unrelated, images[:, :1] > 0.5)
    model.trainer = SimpleNamespace(estimated_stepping_batches=100, global_step=0, world_size=1)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    model.train()

    def describe() -> Any:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return model.describe(images)

    features = describe()

    def step() -> None:
        described = features if cached else describe()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = model.training_loss(images, described, others)
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
    """Return images per second of training by Lightning, from files. `keep`: write the checkpoint to this path."""
    case, clock = CASES[name], Clock()
    model = make_method(name, weights, case)
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
    """Call `work`. Return its images per second, its peak GiB on the GPU and its seconds, or its error."""
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


def measure_training(
    options: argparse.Namespace, home: Path, images: Path, deadline: float
) -> Iterator[tuple[str, str, Any]]:
    """Yield method, column and result of each measurement, until the deadline."""
    for name in options.methods:
        weights = str(save_weights(CASES[name], home))
        for column, (precision, cached, bare) in TRAINING.items():
            if time.monotonic() > deadline:
                return
            checkpoint = home / f"{name}.ckpt" if column == "fit, teacher" and name in options.judges else None
            work = partial(run_bare if bare else run_fit, name, weights, precision, cached)
            yield name, column, measure(work if bare else partial(work, images, checkpoint))
        if CASES[name].peer and importlib.util.find_spec("anomalib"):
            peer_options = argparse.Namespace(images=images / "train/good", anomalib_workers=8)
            yield name, "anomalib", measure(partial(run_peer, name, peer_options))


def run_peer(name: str, options: argparse.Namespace) -> float:
    return run_anomalib(name, options, CASES[name], "gpu")["wall"]


def measure_judging(name: str, file: Path, images: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each batch size: the speed of the network alone, and of a folder of files by all cores."""
    files = [str(path) for path in sorted((images / "train/good").iterdir())]
    for batch in (1, 8, 32):
        row: dict[str, Any] = {"method": name, "batch": batch}
        result = measure(partial(judge_folder, file, batch, files, row))
        yield row | {key: result[key] for key in ("GiB", "error") if key in result}


def judge_folder(file: Path, batch: int, files: list[str], row: dict[str, Any]) -> float:
    """Measure a detector on the GPU, and write the speeds to its row. Return images per second from files."""
    detector = Detector.load(file, device="cuda")
    network_times = speed.time_network(detector, batch, 1.0)
    row |= {"network p50 ms": 1e3 * statistics.median(network_times)}
    row |= {"network images/s": batch / statistics.mean(network_times)}
    row |= {"folder images/s": batch / statistics.mean(speed.time_files(detector, files, batch, 2.0))}
    return row["folder images/s"]


def format_cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests marked gpu. Return pytest's counts, and the figures that the tests recorded."""
    workers = min(12, cores()) if importlib.util.find_spec("xdist") else 1
    parallel = ["-n", str(workers)] if workers > 1 else []
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-rs", "--tb=short", "tests/test_gpu.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // workers))}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, f"--junitxml={file}", *parallel], cwd=ROOT, env=environment, timeout=seconds)
        if not file.is_file():
            return {"error": f"not finished after {seconds:.0f} s"}
        suite = ElementTree.parse(file).getroot()[0]
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    figures = {
        case.attrib["name"]: {figure.attrib["name"]: figure.attrib["value"] for figure in case.iter("property")}
        for case in suite.iter("testcase")
    }
    return {**counts, "figures": {name: values for name, values in figures.items() if values}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--judges", nargs="*", choices=CASES, default=["STFPM", "ReverseDistillation", "Dinomaly"])
    parser.add_argument("--without-tests", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no measurement after this time")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this machine has no CUDA GPU that PyTorch sees")
    deadline = time.monotonic() + 60 * options.minutes
    prepare()
    quiet()
    results: dict[str, Any] = {
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
        for name, column, value in measure_training(options, home, images, deadline):
            print(name, column, value, flush=True)
            results["training"].setdefault(name, {})[column] = value
            file = home / f"{name}.ckpt"
            for row in measure_judging(name, file, images) if column == "fit, teacher" and file.is_file() else ():
                print(row, flush=True)
                results["judging"].append(row)
            options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(f"\n{results['gpu']}, {results['cores']} cores, PyTorch {results['torch']}; tests: {results['tests']}\n")
    columns = [*TRAINING, "anomalib"]
    rows = []
    for name, values in results["training"].items():
        case = CASES[name]
        cells = (values.get(column, {}) for column in columns)
        speeds = [format_cell(cell.get("images/s", cell.get("error"))) for cell in cells]
        gib = max(
            (value["GiB"] for column, value in values.items() if "fit" in column and "GiB" in value), default=None
        )
        rows.append([name, f"{case.backbone}, {case.batch} at {case.size}", *speeds, format_cell(gib)])
    print(tabulate(rows, ["method", "teacher, batch", *columns, "GiB"], tablefmt="pipe", disable_numparse=True))
    heads = ["method", "batch", "network p50 ms", "network images/s", "folder images/s", "GiB", "error"]
    lines = [[format_cell(row.get(head)) for head in heads] for row in results["judging"]]
    print(f"\n{tabulate(lines, heads, tablefmt='pipe', disable_numparse=True)}")


if __name__ == "__main__":
    main()
