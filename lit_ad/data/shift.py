"""Write a copy of a test set under other light, to measure how a detector copes with it."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lit_ad.batch import Sample
from lit_ad.data.augment import Augment
from lit_ad.data.light import STRENGTH, Kind, Light, check_light
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.shift_record import SHIFT
from lit_ad.errors import UserError
from lit_ad.files import explain_write_errors, new_folder
from lit_ad.image.conversion import convert_to_rgb
from lit_ad.image.pixels import Pixels, open_image, split_page
from lit_ad.machine import cores
from lit_ad.threads import Pool


@dataclass(frozen=True)
class Shift:
    """A change of the light of a test set's images. The change of an image depends on these arguments and on the
    image's path in the copy, but not on other images or on the place of the data set.

    Args:
        kind: A kind of `Light`.
        strength: Its strength, in (0, 1].
        seed: Seed of the random changes. With the same seed, two strengths change an image in the same direction.
    """

    kind: Kind = "light"
    strength: float = STRENGTH
    seed: int = 0

    def __post_init__(self) -> None:
        check_light(self.kind, self.strength, "data shift")
        if self.seed < 0:
            raise UserError(f"data shift: seed is {self.seed}, but it must be 0 or more")

    def __call__(self, image: Pixels, name: str) -> Pixels:
        """Change an image (H, W, 3) by random numbers from its path: the same shape."""
        digest = hashlib.sha256(os.fsencode(name)).digest()
        key = (self.seed, *np.frombuffer(digest[:16], np.uint32).tolist())
        return Augment([Light(self.kind, self.strength)])(image, key)


def write_shifted(samples: Sequence[Sample], shift: Shift, output: Path) -> int:
    """Write the shifted copy of a data set's test images, and return their number.

    The copy has MVTec AD's layout: CATEGORY/test/DEFECT and CATEGORY/ground_truth/DEFECT. The training images, in
    CATEGORY/train/good, are unchanged: they are hard links, which need no space, or copies if the file system has no
    hard links. Changed images are PNG files of the original size. Images without a label keep their folders. If an
    error occurs, no copy remains.

    Raises:
        UserError: `output` exists or cannot be written, there is no image to shift, or an image cannot be read or has
            more than 8 bits.
    """
    tested = [sample for sample in samples if sample.split in ("test", "predict")]
    if not tested:
        raise UserError("there is no test image to shift: give a data set with a test, or a folder of images")
    if output.exists():
        raise UserError(f"{output} exists already: give another --output")

    def write(entry: tuple[Path, Sample]) -> None:
        place, sample = entry
        image = open_image(sample.image)
        if image.mode.startswith("I") or image.mode == "F":
            raise UserError(f"{sample.image} has more than 8 bits, too many to change: convert it to 8 bits")
        pixels = convert_to_rgb(image, str(sample.image))
        name = place.with_suffix(".png")
        grey = bool((pixels == pixels[..., :1]).all())
        changed = shift(pixels, name.as_posix())
        save(folder / name, changed[..., 0] if grey else changed)
        truth = read_truth(sample, (pixels.shape[0], pixels.shape[1])) if sample.label == 1 else None
        if truth is not None:
            mask = Path(*place.parts[:-3], "ground_truth", place.parts[-2], f"{place.stem}_mask.png")
            save(folder / mask, truth.numpy().astype(np.uint8) * 255)

    with _write_or_remove(output) as folder:
        with Pool(cores()) as pool:
            entries = list(zip(_list_places(tested), tested, strict=True))
            for _ in tqdm(pool.map(write, entries), "Shifting images", len(entries), leave=False, disable=None):
                pass
        train = [sample for sample in samples if sample.split == "train" and sample.label == 0]
        for place, sample in zip(_list_places(train), train, strict=True):
            link(sample.image, folder / place)
        (folder / SHIFT).write_text(json.dumps(asdict(shift)) + "\n", encoding="utf-8")
    return len(tested)


def _list_places(samples: Sequence[Sample]) -> list[Path]:
    """Return the path of each image in the copy. Paths differ even without their suffixes."""
    taken: set[str] = set()
    places = []
    for sample in samples:
        file, page = split_page(sample.image)
        stem = file.stem if page is None else f"{file.stem}-{page}"
        folder = Path(sample.category, sample.split, sample.defect.replace("/", "-"))
        if sample.split == "predict":
            folder = Path(sample.category, sample.defect)
        name, number = stem, 1
        while (folder / name).as_posix().casefold() in taken:  # some file systems ignore case
            number += 1
            name = f"{stem}~{number}"
        taken.add((folder / name).as_posix().casefold())
        places.append(folder / f"{name}{file.suffix if page is None else '.png'}")
    return places


def save(file: Path, pixels: Pixels) -> None:
    """Write (H, W) or (H, W, 3) as a PNG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)


def link(file: Path, place: Path) -> None:
    """Put a file at a second place, as a hard link, or as a copy if that fails. A page of a TIFF becomes a PNG file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if split_page(file)[1] is not None:
        open_image(file).save(place, format="PNG")
        return
    try:
        place.hardlink_to(file.resolve())
    except OSError:
        shutil.copyfile(file, place)


@contextmanager
def _write_or_remove(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`. It is renamed to `folder` if the block succeeds, and removed if not.

    Raises:
        UserError: The folder cannot be written.
    """
    temporary = folder.with_name(f".{os.getpid()}.{secrets.token_hex(6)}.tmp")
    with explain_write_errors(folder, "give another --output"), new_folder(folder.parent):
        try:
            temporary.mkdir()
            yield temporary
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
