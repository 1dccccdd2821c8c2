"""The program FILE.example.py beside an exported FILE: it judges images by NumPy, Pillow and a runtime alone."""

import inspect
import re
from pathlib import Path

from lit_ad.detector import clean_up, components, marking
from lit_ad.detector.card import Card
from lit_ad.errors import NOT_FINITE
from lit_ad.image.limits import DEFAULTS, MEGAPIXELS, METADATA
from lit_ad.image.resize import resize_bilinear
from lit_ad.image.roi import FILL, Roi
from lit_ad.image.view import SMALLEST_SIDE

_RUNTIMES = {  # by suffix: the package to import, and the code that loads `FILE` and its metadata
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


def name_example(file: Path) -> str:
    """Return the file name of the program for an exported file."""
    return f"{file.name}.example.py"


def make_example(file: Path, card: Card) -> str:
    """Return the text of the program for an exported file.

    With tiles, the program calls lit_ad, because the code that joins tiles would be too long for an example.
    """
    return _make_program_with_lit_ad(file) if card.view.tile is not None else _make_program(file, card)


def _make_program(file: Path, card: Card) -> str:
    """Return a program without lit_ad, which judges as `lit_ad.detector.scoring` does."""
    view, maps = card.view, card.decision is not None and card.decision.marking() is not None
    code, mark, pixels = _make_marking(view.region) if maps else ("", "", "")
    runtime, load = _RUNTIMES[file.suffix]
    mask, cut, select = _make_region(view.region)
    imports = "base64, json, os, sys, zlib" if mask else "json, os, sys"
    return f'''"""python {name_example(file)} IMAGE...   Needs numpy, pillow and {runtime}."""

from __future__ import annotations

import {imports}
from pathlib import Path

import numpy as np
import {runtime}
from PIL import Image, ImageOps, PngImagePlugin

FILE = Path(__file__).with_name("{file.name}")

{code}
def limit(variable, default):
    text = os.environ.get(variable) or default
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not value > 0:
        sys.exit(f"the environment variable {{variable}} is {{text!r}}, but it must be a number above 0")
    return value


def read(path):
    try:
        image = Image.open(path)
        if image.width * image.height > 1e6 * MEGAPIXELS:
            sys.exit(f"{{path}} has more pixels than the {{MEGAPIXELS:g}} million that {MEGAPIXELS} allows")
        return ImageOps.exif_transpose(image)
    except Exception as error:
        if "MAX_TEXT_" in str(error):
            excess = f"more than the {{METADATA:g}} MiB that the environment variable {METADATA} allows"
            error = f"it has text or a colour profile of {{excess}}"
        sys.exit(f"cannot read {{path}}: {{error}}")


# The limits of lit_ad for image files replace those of Pillow. For texts in a file, the higher of both limits applies.
MEGAPIXELS = limit("{MEGAPIXELS}", "{DEFAULTS[MEGAPIXELS]:g}")
METADATA = limit("{METADATA}", "{DEFAULTS[METADATA]:g}")
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = max(int(2**20 * METADATA), PngImagePlugin.MAX_TEXT_CHUNK)
PngImagePlugin.MAX_TEXT_MEMORY = max(int(2**20 * METADATA), PngImagePlugin.MAX_TEXT_MEMORY)
{load}
view, (height, width) = card["view"], card["input_size"]
{mask}# Scores of held-out nominal images: no training image is among them.
held_out = np.concatenate(list(card["decision"]["scores"].values()))

for path in sys.argv[1:]:
    image = read(path)
    if image.mode[0] in "IF":  # 16 bits, or floats
        low, high = view["window"] or (0, 65535 if image.mode[0] == "I" else 1)
        values = (np.asarray(image).astype(float).clip(low, high) - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    elif view["window"]:
        sys.exit(f"{{path}} has values of 8 bits, but the window is for images of more bits")
    image = image.convert("RGB")
    smallest = min(image.size)
{cut}    h, w = {view.size}
    if view["fit"] == "pad":
        scale = min(h / image.height, w / image.width)
        h, w = max(1, round(scale * image.height)), max(1, round(scale * image.width))
    if min(smallest, h, w) < {SMALLEST_SIDE}:
        sys.exit(f"{{path}} is too small or too thin to be judged")
    method = Image.Resampling.{view.interpolation.upper()}
    narrow = image.resize((w, image.height), method)  # the width first: Pillow 13 may start with the height
    pixels = np.asarray(narrow.resize((w, h), method))
    inside = np.full((h, w), True)  # the pixels that are judged
{select}    # Crop the middle where the content is larger than the input; reflect its border where it is smaller.
    top, left = (height - h) // 2, (width - w) // 2
    middle = np.s_[max(-top, 0) : height - top, max(-left, 0) : width - left]
    around = [(max(top, 0), max(height - h - top, 0)), (max(left, 0), max(width - w - left, 0))]
    pixels, inside = np.pad(pixels[middle], [*around, (0, 0)], "reflect"), np.pad(inside[middle], around)
    score, *maps = run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    if not all(np.isfinite(values).all() for values in (score, *maps)):
        sys.exit(f"{{path}}: {NOT_FINITE}")
    score = float(score[0])
    if maps and card["map_scored"]:  # padding is not judged
        values = np.sort(maps[0][0, 0, inside])
        score = float(values[-max(int(card["top"] * values.size), 1) :].mean())
    p_value = (1 + (held_out >= score).sum()) / (len(held_out) + 1)
    verdict = "anomalous" if score > card["threshold"][""] else "nominal"
{mark}    print(f"{{path}}: {{verdict}}, score {{score:.6g}}, p-value {{p_value:.3g}}{pixels}")
'''


def _make_marking(region: Roi | None) -> tuple[str, str, str]:
    """Return three pieces of code that mark anomalous pixels: lit_ad's functions, their call, and the printed text."""
    parts = []
    for part in (components, clean_up, marking, resize_bilinear):
        source = inspect.getsource(part)
        source = re.sub(r'^"""(?:.|\n)*?"""\n', "", source)  # remove the docstring of a module
        parts.append(re.sub(r"^(?:from|import) .*\n", "", source, flags=re.MULTILINE).strip("\n"))
    code = """# Code of lit_ad (Apache-2.0), down to "End of lit_ad's code".
from dataclasses import asdict, dataclass  # noqa: E402
from typing import Any  # noqa: E402

from numpy.typing import NDArray  # noqa: E402

"""
    code += "\n\n\n".join(parts) + "\n\n\n# End of lit_ad's code.\n\n"
    inside = "np.asarray(mask) > 127" if region is not None and region.inside is not None else "None"
    mark = f"""    content = maps[0][0, 0, max(top, 0) : top + h, max(left, 0) : left + w]
    before, missing = (max(-top, 0), max(-left, 0)), (h - content.shape[0], w - content.shape[1])
    cropped = [(first, lost - first) for first, lost in zip(before, missing)]
    heat = resize_bilinear(np.pad(content, cropped, constant_values=content.min()), image.size[::-1])
    marked = Marking.from_dict(card["marking"][""])(heat, {inside})
"""
    return code, mark, ", {marked.sum()} anomalous pixels"


def _make_region(region: Roi | None) -> tuple[str, str, str]:
    """Return three pieces of code for a region of interest.

    The first reads the region's mask; the second cuts the region out of an image; the third selects the pixels that
    belong to the region, at the content's size. All are "" without a region.
    """
    if region is None:
        return "", "", ""
    top, left, bottom, right = region.box
    rows, columns = region.size or (bottom, right)
    misfit = "<" if region.size is None else "!="
    cut = f"""    if image.width {misfit} {columns} or image.height {misfit} {rows}:
        sys.exit(f"{{path}} does not fit the region of interest, which is for images of {columns} x {rows} pixels")
    image = image.crop({(left, top, right, bottom)})
"""
    if region.inside is None:
        return "", cut, ""
    mask = f"""bits = np.frombuffer(zlib.decompress(base64.b64decode(view["roi"].split(",")[2])), np.uint8)
mask = Image.fromarray(255 * np.unpackbits(bits, count={rows * columns}).reshape({rows}, {columns}))
mask = mask.crop({(left, top, right, bottom)})
"""
    cut += f"""    image = Image.composite(image, Image.new("RGB", image.size, {FILL}), mask)
"""
    select = """    share = mask.resize((w, mask.height), Image.Resampling.BOX).resize((w, h), Image.Resampling.BOX)
    share = np.asarray(share)
    inside = share > (127 if share.max() > 127 else 0)
"""
    return mask, cut, select


def _make_program_with_lit_ad(file: Path) -> str:
    """Return a program that lets lit_ad judge."""
    runtime, _ = _RUNTIMES[file.suffix]
    return f'''"""python {name_example(file)} IMAGE...   Needs numpy, pillow, {runtime}, and lit_ad for the tiles."""

import sys
from pathlib import Path

from lit_ad import Detector
from lit_ad.errors import UserError

detector = Detector.load(Path(__file__).with_name("{file.name}"))
for path in sys.argv[1:]:
    try:
        detection = detector(path)
    except UserError as error:
        sys.exit(str(error))
    verdict = "anomalous" if detection.anomalous else "nominal"
    pixels = "" if detection.mask is None else f", {{detection.mask.sum()}} anomalous pixels"
    print(f"{{path}}: {{verdict}}, score {{detection.score:.6g}}, p-value {{detection.p_value:.3g}}{{pixels}}")
'''
