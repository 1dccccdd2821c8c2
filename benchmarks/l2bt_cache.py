"""Measure how much faster L2BT trains with cached teacher features, and compare with the limit by operation counts.

Prints Markdown.

    python benchmarks/l2bt_cache.py --root ../shared/data/glass_fibre \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors       # 5 minutes on two cores

The setting is DeiT-tiny at 512x512, batch 4, 50 epochs, a float16 cache and no validation. With the cache, the time is
that of the whole `fit`, with the pass that fills the cache. Without it, two epochs are timed, and the faster one is
multiplied by the number of epochs. Both keep the decoded images in memory.

Two losses are compared: those of the first two epochs with and without the cache, and that of the last epoch with a
float16 cache and a float32 cache. A float32 cache has exactly the teacher's features. With --full, all epochs are
also trained without the cache, and their last loss is compared instead.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.image.view import View
from lit_ad.machine import keep_memory
from lit_ad.methods import L2BT
from lit_ad.training import FeatureCache

Precision = Literal["float16", "float32"]


class Clock(L.Callback):
    """Records the wall seconds, the processor seconds and the mean loss of each epoch."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.losses: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter(), time.process_time()
        self.sum: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.sum.append(outputs["loss"])

    def on_train_epoch_end(self, *_: Any) -> None:
        self.wall.append(time.perf_counter() - self.start[0])
        self.processor.append(time.process_time() - self.start[1])
        self.losses.append(float(torch.stack(self.sum).mean()))


def make_method(options: argparse.Namespace) -> L2BT:
    view = View(options.size, interpolation="bicubic")
    return L2BT(options.backbone, options.taps, options.weights, view)


def fit(options: argparse.Namespace, epochs: int, dtype: Precision | None, home: str) -> tuple[Clock, float, float]:
    """Train. Return the record of the epochs, and the wall and processor seconds of the whole `fit`."""
    L.seed_everything(0, verbose=False)
    model = make_method(options)
    data = AnomalyDataModule(MVTec(options.root), model.view, batch_size=options.batch, loading=Loading(inspect=False))
    cache, clock = FeatureCache(dtype is not None, Path(home), dtype or "float16"), Clock()
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[cache, clock],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=home,
    )
    start = time.perf_counter(), time.process_time()
    trainer.fit(model, datamodule=data)
    return clock, time.perf_counter() - start[0], time.process_time() - start[1]


def count_multiply_adds(options: argparse.Namespace) -> tuple[float, float]:
    """Count multiply-adds per token, of the teacher's forward pass and of a training step of the students."""
    model = make_method(options)
    vit: Any = model.teacher.model
    width, patch = vit.embed_dim, model.teacher.patch_size
    tokens = (options.size // patch) ** 2 + vit.num_prefix_tokens
    linear = sum(p.numel() for block in vit.blocks for name, p in block.named_parameters() if p.ndim == 2)
    attention = 2 * tokens * width * len(vit.blocks)  # queries times keys, and weights times values
    teacher = 3 * patch**2 * width + linear + attention
    layers = [p.numel() for p in model.parameters() if p.requires_grad and p.ndim == 2]
    # A step has three parts: forward, gradients of the weights, gradients of the inputs. The first layer of each
    # student needs no gradients of its inputs.
    return teacher, 3 * sum(layers) - 2 * width**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--weights", required=True, help="weights of the teacher: a file, or hub")
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--taps", type=int, nargs=2, default=(7, 11))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--full", action="store_true", help="train all epochs without the cache as well")
    options = parser.parse_args()

    keep_memory()  # as the commands do
    teacher, student = count_multiply_adds(options)
    with tempfile.TemporaryDirectory() as home:
        plain, _, _ = fit(options, options.epochs if options.full else 2, None, home)
        cached, wall, processor = fit(options, options.epochs, "float16", home)
        exact = None if options.full else fit(options, options.epochs, "float32", home)[0]

    epochs = options.epochs
    ceiling = epochs * (teacher + student) / (teacher + epochs * student)
    print(f"Multiply-adds per token: teacher {teacher / 1e6:.2f} M, students' step {student / 1e6:.2f} M")
    print("\n| | wall s | processor s |\n| --- | --- | --- |")
    print(f"| an epoch without cache | {min(plain.wall):.2f} | {min(plain.processor):.2f} |")
    print(f"| an epoch with cache, mean | {sum(cached.wall) / epochs:.2f} | {sum(cached.processor) / epochs:.2f} |")
    print(f"| start, and filling the cache | {wall - sum(cached.wall):.2f} | {processor - sum(cached.processor):.2f} |")
    print(f"| {epochs} epochs without cache | {epochs * min(plain.wall):.1f} | {epochs * min(plain.processor):.1f} |")
    print(f"| {epochs} epochs with cache, with its filling | {wall:.1f} | {processor:.1f} |")
    gain, processor_gain = epochs * min(plain.wall) / wall, epochs * min(plain.processor) / processor
    print(f"| **gain** (ceiling {ceiling:.1f}) | **{gain:.1f}** | {processor_gain:.1f} |")
    last = plain.losses[-1] if exact is None else exact.losses[-1]
    against = "no cache" if exact is None else "a float32 cache"
    early = max(abs(a / b - 1) for a, b in zip(cached.losses, plain.losses, strict=False))
    print(f"\nLoss: epochs 1 to {len(plain.losses)} differ from those without cache by {100 * early:.3f} % at most;")
    print(f"the last of {epochs} is {cached.losses[-1]:.6f}, with {against} {last:.6f}: ", end="")
    print(f"{100 * abs(cached.losses[-1] / last - 1):.3f} %")
    assert not math.isnan(last)


if __name__ == "__main__":
    main()
