"""Checks of all methods whose decoder restores the tokens of a ViT: what they find, and how they train."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.image.view import original_map
from lit_ad.methods.base import Method
from lit_ad.methods.restoration import schedule


def check_planted_noise_is_found(model: Method, steps: int) -> None:
    """Train on one image, then show the image with one patch of noise. The highest point of the map must lie in the
    patch."""
    generator = np.random.default_rng(0)
    image = generator.integers(90, 110, (150, 180, 3), dtype=np.uint8)
    pixels, box = model.view(image)
    features = model.describe(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        loss = model.loss(model.compare(None, features))  # type: ignore[arg-type]  # these methods need no pixels
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def map_of(shown: np.ndarray) -> np.ndarray:
        seen, _ = model.view(shown)
        with torch.no_grad():
            anomaly_map = model(torch.tensor(seen).permute(2, 0, 1)[None]).anomaly_map[0, 0].numpy()
        return original_map(anomaly_map, seen.shape[:2], box, shown.shape[:2])

    before = map_of(image)
    # The size of one pixel of the network's input.
    height, width = (image.shape[axis] / (box[axis + 2] - box[axis]) for axis in (0, 1))
    found = 0
    for row, column in np.ndindex(pixels.shape[0] // 16, pixels.shape[1] // 16):
        top, bottom = (math.ceil((16 * i - box[0]) * height) for i in (row, row + 1))
        left, right = (math.ceil((16 * i - box[1]) * width) for i in (column, column + 1))
        if top < 0 or bottom > 150:  # a part of the patch lies in the padding
            continue
        planted = image.copy()
        planted[top:bottom, left:right] = generator.integers(0, 256, (bottom - top, right - left, 3), dtype=np.uint8)
        y, x = np.unravel_index((map_of(planted) - before).argmax(), before.shape)
        assert top <= y < bottom and left <= x < right
        found += 1
    assert found >= 16


class Watch(L.Callback):
    """Record the learning rate of each step, and the norm of its gradient after clipping."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []

    # This hook runs before clipping.
    def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    # This hook runs after the previous step.
    def on_before_zero_grad(self, trainer: Any, model: Any, optimizer: Any) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))


def check_schedule_and_clipping(
    model: Method,
    trained: tuple[str, ...],
    lr: float,
    of_trainer: float | None,
    clip: float,
    images: Path,
    home: Path,
) -> None:
    """Train six steps, two of them to warm up, and look at rates, norms and the optimizer.

    Args:
        model: With a warm-up of 2 steps.
        trained: The names of its parts that are trained.
        lr: Its highest rate.
        of_trainer: trainer.gradient_clip_val.
        clip: The norm that gradients have after clipping.
        images: A folder in the layout of MVTec AD.
        home: For the trainer.
    """
    watch = Watch()
    trainer = L.Trainer(
        default_root_dir=home,
        max_steps=6,
        gradient_clip_val=of_trainer,
        callbacks=[watch],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        model.train(), AnomalyDataModule(MVTec(images), model.view, batch_size=4, loading=Loading(num_workers=0))
    )
    assert watch.rates == pytest.approx([lr * schedule(step, 6, 2, 0.1) for step in range(6)])
    assert len(watch.norms) > 3 and watch.norms == pytest.approx([clip] * len(watch.norms), rel=1e-3)
    (optimizer,) = trainer.optimizers
    expected = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-10, "weight_decay": 1e-4}
    expected |= {"amsgrad": True, "clipping_threshold": 1.0}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for n, p in model.named_parameters() if n.split(".")[0] in trained}
