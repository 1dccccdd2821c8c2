"""The example.py beside an exported file: a program that needs the file, NumPy, Pillow and the runtime, not lit_ad."""

from pathlib import Path

from lit_ad.deploy.card import Card

RUNTIMES = {  # by suffix: imports, and loading with `FILE` beside the program
    ".onnx": (
        "onnxruntime",
        """session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["lit_ad"])
run = lambda pixels: session.run(None, {"pixels": pixels})""",
    ),
    ".xml": (
        "openvino",
        """model = openvino.Core().read_model(FILE)
card = json.loads(model.get_rt_info(["lit_ad"]).astype(str))
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
run = lambda pixels: list(compiled({"pixels": pixels}).values())""",
    ),
    ".pt2": (
        "torch",
        """extra = {"lit_ad": ""}
network = torch.export.load(FILE, extra_files=extra).module()
card = json.loads(extra["lit_ad"])
run = lambda pixels: [output.numpy() for output in network(torch.from_numpy(pixels))]""",
    ),
}

PROGRAM = '''"""python example.py IMAGE...   Needs numpy, pillow and {runtime}."""

import json, sys
from pathlib import Path

import numpy as np
import {runtime}
from PIL import Image, ImageOps

FILE = Path(__file__).with_name("{file}")
{load}
view, (height, width) = card["view"], card["input_size"]
held = np.concatenate(list(card["decision"]["scores"].values()))  # scores of nominal images that nothing was trained on

for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        low, high = view["window"] or (0, 65535)
        values = (np.asarray(image).astype(float).clip(low, high) - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    image, size = image.convert("RGB"), view["image_size"]
    h, w = (size, size) if isinstance(size, int) else size
    if view["fit"] == "pad":
        scale = min(h / image.height, w / image.width)
        h, w = max(1, round(scale * image.height)), max(1, round(scale * image.width))
    resampling = Image.Resampling.BICUBIC if view["interpolation"] == "bicubic" else Image.Resampling.BILINEAR
    pixels = np.asarray(image.resize((w, h), resampling))
    top, left = (height - h) // 2, (width - w) // 2  # below 0: the middle is cut out; above: reflections around
    pixels = pixels[max(-top, 0) : height - top, max(-left, 0) : width - left]
    top, left, h, w = max(top, 0), max(left, 0), *pixels.shape[:2]
    pixels = np.pad(pixels, ((top, height - h - top), (left, width - w - left), (0, 0)), mode="reflect")
    score, *maps = run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    score = float(score[0])
    if maps and card["map_scored"]:  # padding is not judged
        values = np.sort(maps[0][0, 0, top : top + h, left : left + w], axis=None)
        score = float(values[-max(int(card["top"] * values.size), 1) :].mean())
    p_value = (1 + (held >= score).sum()) / (len(held) + 1)
    verdict = "anomalous" if score > card["threshold"][""] else "nominal"
    print(f"{{path}}: {{verdict}}, score {{score:.6g}}, p-value {{p_value:.3g}}")
'''

DETECTOR = '''"""python example.py IMAGE...   Needs numpy, pillow, {runtime}, and lit_ad for {what}."""

import sys
from pathlib import Path

from lit_ad import Detector

detector = Detector.load(Path(__file__).with_name("{file}"))
for path in sys.argv[1:]:
    found = detector(path)
    verdict = "anomalous" if found.anomalous else "nominal"
    print(f"{{path}}: {{verdict}}, score {{found.score:.6g}}, p-value {{found.p_value:.3g}}")
'''


def example(file: Path, card: Card) -> str:
    """The program for an exported file."""
    runtime, load = RUNTIMES[file.suffix]
    what = "the tiles" if card.view.tile is not None else "the region of interest" if card.view.roi is not None else ""
    if what:
        return DETECTOR.format(runtime=runtime, file=file.name, what=what)
    return PROGRAM.format(runtime=runtime, file=file.name, load=load)
