"""Compare MKD's saliency maps of a batch in one backward pass with maps of one image at a time: results and speed.

python benchmarks/mkd_saliency.py ../shared/weights/vgg16_blocks1-3.safetensors
"""

import argparse
import time

import torch

from lit_ad.image.view import View
from lit_ad.machine import keep_memory
from lit_ad.methods import MKD

MODES = ("gradients", "smooth_grad", "guided_backprop")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("weights", help="weights of VGG-16, at least of blocks 1 to 3")
parser.add_argument("--images", type=int, default=16, help="images in the batch")
parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
parser.add_argument("--copies", type=int, default=2, help="noisy copies of an image in smooth_grad")
parser.add_argument("--rounds", type=int, default=5, help="rounds of both ways in turn; the fastest of each counts")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
arguments = parser.parse_args()
keep_memory()  # as the commands do


def time_maps(images: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Make the maps of uint8 batches. Return the seconds and the maps."""
    start = time.perf_counter()
    maps = torch.cat([model(batch).anomaly_map.cpu() for batch in images])
    return time.perf_counter() - start, maps


torch.manual_seed(0)
model = MKD("vgg16", (0, 1, 2), arguments.weights, View(arguments.size), copies=arguments.copies)
model = model.eval().to(arguments.device)
shape = (arguments.images, 3, arguments.size, arguments.size)
images = torch.randint(0, 256, shape, dtype=torch.uint8, device=arguments.device)
print(f"{arguments.images} images of {arguments.size} pixels, {arguments.device}, {torch.get_num_threads()} threads")
for mode in MODES:
    model.saliency = mode
    batched, single = [], []
    for _ in range(arguments.rounds):
        batched.append(time_maps([images]))
        single.append(time_maps(list(images.split(1))))
    difference = float((batched[0][1] - single[0][1]).abs().max() / single[0][1].max())
    fast, slow = min(t for t, _ in batched), min(t for t, _ in single)
    print(f"{mode:16} batched {fast:.3f} s, one at a time {slow:.3f} s: {slow / fast:.2f} times faster", end=", ")
    print(f"largest difference {difference:.1e} of the maximum")
