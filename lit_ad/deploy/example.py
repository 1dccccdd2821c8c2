"""FILE.example.py beside an exported FILE: a program that needs the file, NumPy, Pillow and the runtime, not lit_ad."""

from pathlib import Path

from lit_ad.detector.card import Card
from lit_ad.errors import NOT_FINITE
from lit_ad.image.limits import DEFAULTS, MEGAPIXELS, METADATA
from lit_ad.image.roi import FILL
from lit_ad.image.view import SMALLEST_SIDE

RUNTIMES = {  # by suffix: imports, and loading with `FILE` beside the program
    ".onnx": (
        "onnxruntime",
        """session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["lit_ad"])
run = lambda pixels: session.run(None, {"pixels": pixels})""",
    ),
    ".xml": (
        "openvino",
        """core = openvino.Core()
model = core.read_model(FILE)
card = json.loads(model.get_rt_info(["lit_ad"]).astype(str))
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
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

# Of a region of interest: what is read of it once, how it is cut out of an image, what of it counts. As roi.py has it.
BOX = (
    """y0, x0, y1, x1 = view["roi"]  # of the region of interest
""",
    """    if y1 > image.height or x1 > image.width:
        sys.exit(f"{path} does not hold the region of interest: {x1} x {y1} pixels")
    image = image.crop((x0, y0, x1, y1))
""",
    "",
)
MASK = (
    """rows, columns, bits = view["roi"].removeprefix("mask:").split(",")
bits = np.frombuffer(zlib.decompress(base64.b64decode(bits)), np.uint8)
region = np.unpackbits(bits, count=int(rows) * int(columns)).reshape(int(rows), int(columns))
y, x = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
y0, x0, y1, x1 = y[0], x[0], y[-1] + 1, x[-1] + 1
region = region[y0:y1, x0:x1]
""",
    """    if (image.height, image.width) != (int(rows), int(columns)):
        sys.exit(f"{path} is not of the size of the region of interest's mask: {columns} x {rows} pixels")
    image = np.asarray(image.crop((x0, y0, x1, y1)))
    image = Image.fromarray(np.where(region[..., None] > 0, image, np.array(FILL, np.uint8)))
""",
    """    share = np.asarray(Image.fromarray(region * np.uint8(255)).resize((w, h), Image.Resampling.BOX))
    share = share[max(-top, 0) : height - top, max(-left, 0) : width - left]
    counts[...] = share > (127 if share.max() > 127 else 0)
""",
)

PROGRAM = '''"""python {example} IMAGE...   Needs numpy, pillow and {runtime}."""

import {imports}
from pathlib import Path

import numpy as np
import {runtime}
from PIL import Image, ImageOps, PngImagePlugin

FILE = Path(__file__).with_name("{file}")
# Limits of image files, as lit_ad has them, in place of Pillow's, which are lower.
PIXELS = 1e6 * float(os.environ.get("{megapixels}") or {most_megapixels})
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**20 * {most_metadata}
{load}
view, (height, width) = card["view"], card["input_size"]
{region}# Scores of nominal images that nothing was trained on.
held = np.concatenate(list(card["decision"]["scores"].values()))

for path in sys.argv[1:]:
    image = Image.open(path)
    if image.width * image.height > PIXELS:
        sys.exit(f"{{path}} has more pixels than the {{PIXELS / 1e6:g}} million that {megapixels} allows")
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16 bits, or floats
        low, high = view["window"] or (0, 65535 if image.mode[0] == "I" else 1)
        values = (np.asarray(image).astype(float).clip(low, high) - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    elif view["window"]:
        sys.exit(f"{{path}} has values of 8 bits, and the window is for more")
    image = image.convert("RGB")
    smallest = min(image.size)
{cut}    size = view["image_size"]
    h, w = (size, size) if isinstance(size, int) else size
    if view["fit"] == "pad":
        scale = min(h / image.height, w / image.width)
        h, w = max(1, round(scale * image.height)), max(1, round(scale * image.width))
    if min(smallest, h, w) < {side}:
        sys.exit(f"{{path}} is too small or too thin to be judged")
    resampling = Image.Resampling.BICUBIC if view["interpolation"] == "bicubic" else Image.Resampling.BILINEAR
    pixels = np.asarray(image.resize((w, h), resampling))
    top, left = (height - h) // 2, (width - w) // 2  # below 0: the middle is cut out; above: reflections around
    pixels = pixels[max(-top, 0) : height - top, max(-left, 0) : width - left]
    counts = np.ones(pixels.shape[:2], bool)
{count}    top, left, h, w = max(top, 0), max(left, 0), *pixels.shape[:2]
    pixels = np.pad(pixels, ((top, height - h - top), (left, width - w - left), (0, 0)), mode="reflect")
    score, *maps = run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    if not all(np.isfinite(values).all() for values in (score, *maps)):
        sys.exit(f"{{path}}: {not_finite}")
    score = float(score[0])
    if maps and card["map_scored"]:  # padding is not judged
        values = np.sort(maps[0][0, 0, top : top + h, left : left + w][counts])
        score = float(values[-max(int(card["top"] * values.size), 1) :].mean())
    p_value = (1 + (held >= score).sum()) / (len(held) + 1)
    verdict = "anomalous" if score > card["threshold"][""] else "nominal"
    print(f"{{path}}: {{verdict}}, score {{score:.6g}}, p-value {{p_value:.3g}}")
'''

DETECTOR = '''"""python {example} IMAGE...   Needs numpy, pillow, {runtime}, and lit_ad for the tiles."""

import sys
from pathlib import Path

from lit_ad import Detector

detector = Detector.load(Path(__file__).with_name("{file}"))
for path in sys.argv[1:]:
    found = detector(path)
    verdict = "anomalous" if found.anomalous else "nominal"
    print(f"{{path}}: {{verdict}}, score {{found.score:.6g}}, p-value {{found.p_value:.3g}}")
'''


def example_name(file: Path) -> str:
    """What the program of an exported file is called: each file has its own."""
    return f"{file.name}.example.py"


def example(file: Path, card: Card) -> str:
    """The program for an exported file."""
    runtime, load = RUNTIMES[file.suffix]
    if card.view.tile is not None:
        return DETECTOR.format(runtime=runtime, file=file.name, example=example_name(file))
    roi = card.view.roi
    region, cut, count = ("", "", "") if roi is None else MASK if isinstance(roi, str) else BOX
    parts = {"region": region, "cut": cut.replace("FILL", str(FILL)), "count": count}
    imports = "base64, json, os, sys, zlib" if isinstance(roi, str) else "json, os, sys"
    limits = {"megapixels": MEGAPIXELS, "most_megapixels": f"{DEFAULTS[MEGAPIXELS]:g}"}
    parts |= {**limits, "most_metadata": f"{DEFAULTS[METADATA]:g}"}
    parts |= {"load": load, "imports": imports, "not_finite": NOT_FINITE, "side": str(SMALLEST_SIDE)}
    return PROGRAM.format(runtime=runtime, file=file.name, example=example_name(file), **parts)
