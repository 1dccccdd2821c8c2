"""How fast STFPM trains, against its bare student step and against anomalib's Stfpm. Prints a Markdown table.

    python benchmarks/stfpm_training.py --images ../shared/data/magnetic_tile/train/good \\
        --weights ../shared/weights/resnet18_stages1-3.safetensors          # 15 minutes on two cores
    python benchmarks/stfpm_training.py ... --without-anomalib              # 3 minutes, installs nothing

ResNet-18 at 256x256, batch 32, float32, 160 images. Every measurement is a process of its own with the same threads.
The first epoch warms up and does not count; of the others the median. There is no validation in either. The bare step
is the student's forward, the loss, backward and optimizer on tensors that are ready, in the layout and with the
allocator settings of lit_ad: it is the ceiling. anomalib goes into a temporary environment; its teacher is random
because timm's hub may be out of reach, which costs nothing in time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ANOMALIB = "anomalib==2.7.0 torch==2.14.1 torchvision==0.29.1"


def linked(images: Path, home: Path, count: int) -> Path:
    """A folder of `count` nominal images, and one to test on, in MVTec AD's layout."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".png"))[:count]
    for name, chosen in (("train/good", files), ("test/good", files[:1]), ("test/bad", files[:1])):
        (home / name).mkdir(parents=True)
        for file in chosen:
            (home / name / file.name).symlink_to(file.absolute())
    return home


class Epochs:
    """Wall and processor seconds of every training epoch. Becomes a Callback of the Lightning it is given."""

    @staticmethod
    def of(lightning: Any) -> Any:
        class Clock(lightning.Callback):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                self.wall: list[float] = []
                self.processor: list[float] = []

            def on_train_epoch_start(self, *_: Any) -> None:
                self.start = time.perf_counter(), time.process_time()

            def on_train_epoch_end(self, *_: Any) -> None:
                self.wall.append(time.perf_counter() - self.start[0])
                self.processor.append(time.process_time() - self.start[1])

        return Clock()


def result(wall: list[float], processor: list[float], images: int) -> dict[str, float]:
    return {
        "images_per_second": images / statistics.median(wall[1:]),
        "processor_ms_per_image": 1000 * statistics.median(processor[1:]) / images,
    }


def run_bare(options: argparse.Namespace) -> dict[str, float]:
    import torch

    from lit_ad.methods import STFPM
    from lit_ad.run.cli import keep_memory

    keep_memory()
    model = STFPM(weights=options.weights).train()
    size = (options.batch, 3, options.size, options.size)
    images = torch.rand(size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.teacher(images)
    optimizer = model.configure_optimizers()
    wall, processor = [], []
    steps = options.count // options.batch
    for _ in range(options.epochs):
        start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            model.loss(model.compare(images, features)).backward()
            optimizer.step()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return result(wall, processor, steps * options.batch)


def run_ours(options: argparse.Namespace, cached: bool) -> dict[str, float]:
    import lightning as L

    from lit_ad.callbacks import FeatureCache
    from lit_ad.data import AnomalyDataModule
    from lit_ad.methods import STFPM
    from lit_ad.run.cli import keep_memory
    from lit_ad.view import View

    keep_memory()
    clock = Epochs.of(L)
    model = STFPM(weights=options.weights, view=View(options.size))
    source = listed(options.images, options.count)
    data = AnomalyDataModule(source, model.view, batch_size=options.batch, val_fraction=1e-9, inspect=False)
    with tempfile.TemporaryDirectory() as home:
        cache = FeatureCache(cached, Path(home), "float32")
        trainer(L, options, [cache, clock], home).fit(model, datamodule=data)
    return result(clock.wall, clock.processor, options.count // options.batch * options.batch)


def listed(images: Path, count: int) -> Any:
    from lit_ad.data import Sample, Source

    class Listed(Source):
        def samples(self) -> list[Sample]:
            files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".png"))
            return [Sample(file, 0) for file in files[: count + 1]]  # one is held out, and not used

    return Listed()


def trainer(L: Any, options: argparse.Namespace, callbacks: list[Any], home: str) -> Any:
    return L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=home,
    )


def run_anomalib(options: argparse.Namespace) -> dict[str, float]:
    """In anomalib's environment."""
    import lightning
    import timm

    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False})
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Stfpm

    clock = Epochs.of(lightning.pytorch)
    with tempfile.TemporaryDirectory() as home:
        root = linked(options.images, Path(home) / "data", options.count)
        data = Folder(
            "images",
            "train/good",
            root,
            abnormal_dir="test/bad",
            normal_test_dir="test/good",
            train_batch_size=options.batch,
            num_workers=options.anomalib_workers,
            test_split_mode="from_dir",
            val_split_mode="same_as_test",
        )
        model = Stfpm(backbone="resnet18", pre_processor=Stfpm.configure_pre_processor((options.size, options.size)))
        engine = Engine(
            max_epochs=options.epochs,
            accelerator="cpu",
            callbacks=[clock],
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=home,
        )
        engine.fit(model, datamodule=data)
    return result(clock.wall, clock.processor, options.count // options.batch * options.batch)


def install(home: Path) -> Path:
    """A throw-away environment with anomalib; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", *ANOMALIB.split()], check=True)
    return home / "bin/python"


KINDS = {
    "bare": ("bare student step", run_bare),
    "cached": ("lit_ad, features cached", lambda o: run_ours(o, True)),
    "plain": ("lit_ad, teacher run every epoch", lambda o: run_ours(o, False)),
    "anomalib": ("anomalib 2.7.0", run_anomalib),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of nominal images")
    parser.add_argument("--weights", required=True, help="ResNet-18's: a file, or hub")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="of all kinds in turn; the best of each counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--anomalib-workers", type=int, default=1, help="its own default is 8")
    parser.add_argument("--anomalib-python", help="of an environment that has anomalib, to install none")
    parser.add_argument("--without-anomalib", action="store_true")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(KINDS[options.only][1](options)))
        return
    kinds = [kind for kind in KINDS if kind != "anomalib" or not options.without_anomalib]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as home:
        python = {"anomalib": options.anomalib_python} if options.anomalib_python else {}
        if "anomalib" in kinds and not python:
            python["anomalib"] = str(install(Path(home)))
        for _ in range(options.rounds):
            for kind in kinds:
                command = [python.get(kind, sys.executable), __file__, *sys.argv[1:], "--only", kind]
                environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(f"{kind} failed:\n{done.stderr[-3000:]}")
                measured = json.loads(done.stdout.strip().splitlines()[-1])
                if kind not in found or measured["images_per_second"] > found[kind]["images_per_second"]:
                    found[kind] = measured
    print("| training | images/s | processor ms/image | of the bare step | times anomalib |")
    print("| --- | --- | --- | --- | --- |")
    for kind, values in found.items():
        speed = values["images_per_second"]
        peer = f"{speed / found['anomalib']['images_per_second']:.2f}" if "anomalib" in found else ""
        share = speed / found["bare"]["images_per_second"]
        print(f"| {KINDS[kind][0]} | {speed:.1f} | {values['processor_ms_per_image']:.1f} | {share:.2f} | {peer} |")


if __name__ == "__main__":
    main()
