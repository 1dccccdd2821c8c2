"""The demo's data: photographed textures with rendered defects, made on the user's machine without a download.

The photographs (brick, grass, gravel; grey, 512x512) are part of scikit-image's wheel. Training images are crops of the
left part of a photograph, test images of the right part; defects are random with a fixed seed.
"""

import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import cache_directory, explain_write_errors, resolve_path

VERSION = "demo-v1"
TEXTURES = {"brick": 1.0, "grass": 1.7, "gravel": 1.5}  # boldness of defects: busy textures hide faint ones
SIDE, BORDER = 160, 304  # side of a crop; column of the photograph where training ends and test begins
COUNTS = {"train": 60, "good": 24, "defect": 8}

Grey = NDArray[np.float32]  # (SIDE, SIDE), 0..255
Mask = NDArray[np.bool_]


class Demo(Source):
    """Three surfaces (brick, grass, gravel) with drawn scratches, stains, holes and missing patches.

    Each surface has 60 nominal training images, and 24 nominal and 32 defective test images with exact masks, 160x160
    grey. They are rendered once, in a second or two, and stay on disk in the layout of MVTec AD.

    Args:
        root: Folder for the images. None: $XDG_CACHE_HOME/lit_ad, by default ~/.cache/lit_ad.
        category: The surfaces to take. None: all.
    """

    def __init__(self, root: Path | None = None, category: str | list[str] | None = None) -> None:
        self.root = resolve_path(root or cache_directory()) / VERSION
        self.category = category

    def prepare(self) -> None:
        if self.root.is_dir():
            return
        with explain_write_errors(self.root.parent, "give another data.source.root"):
            self._render()

    def _render(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{VERSION}-", dir=self.root.parent))
        try:
            for texture in TEXTURES:
                write(texture, temporary / texture)
            temporary.chmod(0o755)
            temporary.rename(self.root)
        except OSError:
            if not self.root.is_dir():  # otherwise another process has written the same images first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each surface."""
        wanted = [self.category] if isinstance(self.category, str) else self.category
        return {name: {"category": name} for name in wanted or TEXTURES}

    def samples(self) -> list[Sample]:
        self.prepare()
        return MVTec(self.root, self.category).samples()


def write(texture: str, folder: Path) -> None:
    """Write all images and masks of one texture."""
    photograph = read_photograph(texture)
    parts = {"train": photograph[:, :BORDER], "test": photograph[:, BORDER:]}

    def crop_at(split: str, number: int) -> tuple[Grey, Generator]:
        generator = np.random.default_rng([list(TEXTURES).index(texture), split == "test", number])
        return crop(parts[split], generator), generator

    for number in range(COUNTS["train"]):
        save(crop_at("train", number)[0], folder / f"train/good/{number:03}.png")
    for number in range(COUNTS["good"]):
        save(crop_at("test", number)[0], folder / f"test/good/{number:03}.png")
    number = COUNTS["good"]
    for defect, draw in DEFECTS.items():
        for i in range(COUNTS["defect"]):
            image, generator = crop_at("test", number)
            damaged, mask = draw(image, generator, TEXTURES[texture])
            save(np.where(mask, damaged, image), folder / f"test/{defect}/{i:03}.png")
            save(mask * np.float32(255), folder / f"ground_truth/{defect}/{i:03}_mask.png")
            number += 1


def read_photograph(texture: str) -> Grey:
    """Read a photograph of scikit-image's wheel, (512, 512)."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError("the Demo source takes its photographs from scikit-image: pip install lit-ad[demo]")
    return np.asarray(Image.open(Path(package.origin).parent / "data" / f"{texture}.png").convert("L"), np.float32)


def save(image: Grey, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(path)


def crop(part: Grey, generator: Generator) -> Grey:
    """Cut a random square (SIDE, SIDE) from a photograph, mirrored or not, with slightly random light and noise."""
    top, left = (generator.integers(side - SIDE + 1) for side in part.shape)
    image: Grey = part[top : top + SIDE, left : left + SIDE][:, :: generator.choice([-1, 1])]
    gain, offset = generator.uniform(0.94, 1.06), generator.uniform(-6, 6)
    lit: Grey = (image * gain + offset + generator.normal(0, 2, image.shape)).astype(np.float32)
    return lit


# The defects: (image, generator, boldness) -> damaged image, and mask of the damage; (SIDE, SIDE) each.


def _draw_scratch(image: Grey, generator: Generator, bold: float) -> tuple[Grey, Mask]:
    """Draw a bent, thin, bright or dark line."""
    start = generator.uniform(0.2, 0.8, 2) * SIDE
    angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(55, 100)
    end = np.clip(start + length * np.array([np.cos(angle), np.sin(angle)]), 6, SIDE - 6)
    bend = (start + end) / 2 + generator.normal(0, 8, 2)
    t = np.linspace(0, 1, 60)[:, None]
    line = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    alpha = np.zeros_like(image)
    points = np.rint(line * 16).astype(np.int32)[:, None]  # 4 binary digits after the point
    cv2.polylines(alpha, [points], False, 1.0, round(bold * generator.integers(1, 3)), cv2.LINE_8, 4)
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.6), np.float32)
    shade = generator.choice([-1, 1]) * generator.uniform(1.8, 2.6) * image.std()
    return image + shade * alpha, alpha > 0.3


def _draw_stain(image: Grey, generator: Generator, bold: float) -> tuple[Grey, Mask]:
    """Draw a dark spot with a ragged edge, like water; the texture stays visible."""
    mask = _draw_blob(generator, generator.uniform(13, 24), rough=0.35)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    return image * (1 - generator.uniform(0.28, 0.45) * bold * soft), mask


def _draw_hole(image: Grey, generator: Generator, bold: float) -> tuple[Grey, Mask]:
    """Draw a small, dark pit with a bright lower rim."""
    mask = _draw_blob(generator, generator.uniform(4.5, 8.5) * bold, rough=0.2)
    deep = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
    rim = np.clip(mask - np.roll(mask.astype(np.float32), -2, axis=0), 0, 1)
    return image * (1 - min(0.9, generator.uniform(0.6, 0.8) * bold) * deep) + 40 * rim, mask


def _remove_patch(image: Grey, generator: Generator, bold: float) -> tuple[Grey, Mask]:
    """Remove the texture of a piece of the surface; its brightness stays."""
    mask = _draw_blob(generator, generator.uniform(14, 24), rough=0.3)
    smooth = cv2.GaussianBlur(image, (0, 0), 10)
    return 0.9 * smooth + 0.1 * image + generator.normal(0, 2, image.shape).astype(np.float32), mask


def _draw_blob(generator: Generator, radius: float, rough: float) -> Mask:
    """Return a filled outline around a random centre, ragged by random waves, entirely inside the image."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = np.arange(2, 7)
    amplitudes, phases = generator.normal(0, 1, 5) / waves, generator.uniform(0, 2 * np.pi, 5)
    outline = radius * np.clip(1 + rough * np.cos(angle[:, None] * waves + phases) @ amplitudes, 0.4, 1.6)
    stretch = generator.uniform(0.8, 1.25)
    centre = generator.uniform(1.25 * 1.6 * radius, SIDE - 1.25 * 1.6 * radius, 2)
    points = np.stack([np.cos(angle) * outline * stretch, np.sin(angle) * outline / stretch], axis=1) + centre
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
    return mask.astype(bool)


DEFECTS: dict[str, Callable[[Grey, Generator, float], tuple[Grey, Mask]]] = {
    "scratch": _draw_scratch,
    "stain": _draw_stain,
    "hole": _draw_hole,
    "missing_patch": _remove_patch,
}
