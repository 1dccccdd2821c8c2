"""Score eight images of different sizes in batches of 1, 3 and 8, by every method.

An image's score must not depend on the other images of its batch, so the rows of a method must be equal. The networks
are small and have random weights.

python benchmarks/batch_sizes.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from lit_ad.batch import Batch, Sample
from lit_ad.data.collation import collate
from lit_ad.image.view import View
from lit_ad.methods import L2BT, MKD, STFPM, Dinomaly, EfficientAD, ReverseDistillation, Transformaly
from lit_ad.methods.base import Method
from lit_ad.teachers.pdn import PDN

SIZES = [(64, 64), (64, 96), (80, 72), (96, 64), (75, 91), (64, 83), (90, 90), (70, 66)]  # height, width
BATCHES = (1, 3, 8)
DEIT = "deit_tiny_patch16_224"


def make_methods(folder: Path) -> dict[str, Method]:
    """Make each method for images of any size, with weights in a folder."""
    resnet, vit, pdn = (str(folder / name) for name in ("resnet.pt", "vit.pt", "pdn.pt"))
    torch.save(timm.create_model("resnet10t").state_dict(), resnet)
    torch.save(timm.create_model(DEIT).state_dict(), vit)
    torch.save(PDN("small", width=1 / 16).state_dict(), pdn)
    view = View(None)
    return {
        "STFPM": STFPM("resnet10t", (1, 2, 3), resnet, view),
        "MKD": MKD("resnet10t", (1, 2), resnet, view),
        "L2BT": L2BT(DEIT, (3, 11), vit, view),
        "Transformaly": Transformaly(DEIT, vit, view),
        "ReverseDistillation": ReverseDistillation("resnet10t", (1, 2, 3), resnet, view),
        "Dinomaly": Dinomaly(DEIT, weights=vit, view=view),
        "EfficientAD": EfficientAD(pdn, view=view, width=1 / 16),
    }


def make_images(model: Method, scale: int) -> list[Batch]:
    """Make a batch of one image for each of SIZES, enlarged by `scale`: noise, each with a brightness of its own."""
    generator, batches = np.random.default_rng(0), []
    for number, (height, width) in enumerate(SIZES):
        size = (scale * height, scale * width)
        pixels, box = model.view(generator.integers(0, generator.integers(64, 256), (*size, 3)).astype(np.uint8))
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        batches.append(Batch(tensor, torch.tensor([number]), [Sample(Path(f"{number}"), 0)], [size], [box]))
    return batches


def score_images(model: Any, images: list[Batch], size: int) -> torch.Tensor:
    """Score images in batches of `size`: (len(images),)."""
    batches = [collate(images[start : start + size]) for start in range(0, len(images), size)]
    return torch.cat([model.predict_batch(batch).score for batch in batches])


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        methods = make_methods(Path(folder))
    print(f"{'method':20}{'batch':>6}   " + " ".join(f"{f'{h}x{w}':9}" for h, w in SIZES))
    for name, model in methods.items():
        scale = 4 if name == "EfficientAD" else 1  # EfficientAD needs at least 256 pixels
        nominal = [(images, model.describe(images)) for images in torch.rand(4, 2, 3, 64 * scale, 64 * scale)]
        model.prepare(nominal)
        model.calibrate(nominal, nominal[:2])
        images = make_images(model, scale)
        alone = score_images(model, images, 1)
        for size in BATCHES:
            scores = score_images(model, images, size)
            difference = float(((scores - alone) / alone).abs().max())
            values = " ".join(f"{score:<9.5g}" for score in scores.tolist())
            print(f"{name:20}{size:6}   {values} largest difference {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
