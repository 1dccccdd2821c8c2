"""The score of each image in batches of 1, 3 and 8 with images of other sizes, by every method: they should be equal.

python benchmarks/batch_sizes.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from lit_ad.batch import Batch, Sample
from lit_ad.data.loading import collate
from lit_ad.methods import L2BT, MKD, STFPM, Dinomaly, EfficientAD, ReverseDistillation, Transformaly
from lit_ad.teachers.pdn import PDN
from lit_ad.view import View

SIZES = [
    (64, 64),
    (64, 96),
    (80, 72),
    (96, 64),
    (75, 91),
    (64, 83),
    (90, 90),
    (70, 66),
]  # EfficientAD: 4 times as large

torch.manual_seed(0)
torch.set_grad_enabled(False)
scratch = Path(tempfile.mkdtemp())
resnet, vit, pdn = (str(scratch / name) for name in ("resnet.pt", "vit.pt", "pdn.pt"))  # small networks, random weights
torch.save(timm.create_model("resnet10t").state_dict(), resnet)
torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), vit)
torch.save(PDN("small", width=1 / 16).state_dict(), pdn)
view, deit = View(None), "deit_tiny_patch16_224"
METHODS: dict[str, Any] = {
    "STFPM": STFPM("resnet10t", (1, 2, 3), resnet, view),
    "MKD": MKD("resnet10t", (1, 2), resnet, view),
    "L2BT": L2BT(deit, (3, 11), vit, view),
    "Transformaly": Transformaly(deit, vit, view),
    "ReverseDistillation": ReverseDistillation("resnet10t", (1, 2, 3), resnet, view),
    "Dinomaly": Dinomaly(deit, weights=vit, view=view),
    "EfficientAD": EfficientAD(pdn, view=view, width=1 / 16),
}


def images_of(model: Any, side: int) -> list[Batch]:
    """One image of each size, noise around a shade of its own."""
    generator, found = np.random.default_rng(0), []
    for number, size in enumerate(SIZES):
        height, width = (length * side // 64 for length in size)
        image = generator.integers(0, generator.integers(64, 256), (height, width, 3)).astype(np.uint8)
        pixels, box = model.view(image)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        found.append(Batch(tensor, torch.tensor([number]), [Sample(Path(f"{number}"), 0)], [(height, width)], [box]))
    return found


print(f"{'method':20}{'batch':>6}   " + " ".join(f"{f'{h}x{w}':9}" for h, w in SIZES))
for name, model in METHODS.items():
    side = 256 if name == "EfficientAD" else 64
    nominal = [(images, model.describe(images)) for images in torch.rand(4, 2, 3, side, side)]
    model.prepare(nominal)
    model.calibrate(nominal, nominal[:2])
    images, alone = images_of(model, side), None
    for size in (1, 3, 8):
        batches = [collate(images[start : start + size]) for start in range(0, len(images), size)]
        scores = torch.cat([model.predict_batch(batch).score for batch in batches])
        alone = scores if alone is None else alone
        difference = float(((scores - alone) / alone).abs().max())
        values = " ".join(f"{score:<9.5g}" for score in scores.tolist())
        print(f"{name:20}{size:6}   {values} largest difference {difference:.1e}")
