"""`lit-ad submission`."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from lit_ad.commands.own_method import import_own_method
from lit_ad.counts import format_count
from lit_ad.data.sources.mvtec_ad2 import MVTecAD2
from lit_ad.detector.detector import Detector
from lit_ad.detector.run_files import EXPORTED, find_detector
from lit_ad.errors import UserError
from lit_ad.files import atomic_write

OBJECTS = 8  # of MVTec AD 2
SUFFIX = ".tar.gz"
_HIGHEST = float(np.finfo(np.float16).max)


def submission(
    models: Path, root: Path, output: Path = Path("submission.tar.gz"), weights: Path | None = None, device: str = "cpu"
) -> None:
    """Write the private tests of MVTec AD 2 as the file that its benchmark takes.

    The archive holds, for each image of each object and private test, anomaly_images/OBJECT/TEST/NAME.tiff, the map in
    float16 at the image's size, and anomaly_images_thresholded/OBJECT/TEST/NAME.png, 255 where the map lies above the
    pixel threshold of the object's decision.

    Args:
        models: A folder with a run, or an exported file, for each object, called like it; or one run, checkpoint or
            exported file of a model for all objects.
        root: One object of MVTec AD 2, or the folder of its objects.
        output: The archive to write.
        weights: The teacher's, if a checkpoint does not find them.
        device: cpu, or what the runtime calls another one, such as cuda.
    """
    if not output.name.endswith(SUFFIX):
        raise UserError(f"{output} should end in {SUFFIX}, as the benchmark takes it")
    if output.exists():
        raise UserError(f"{output} is there already: give another --output, or remove it")
    private = MVTecAD2(root).private()
    files = {name: model_of(models, name) for name in private}  # before the first of them is run
    with atomic_write(output) as temporary, tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
        for name, images in private.items():
            import_own_method(find_detector(files[name]))
            detector = Detector.load(files[name], weights, device)
            for member, content in judged(detector, name, images):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            assert detector.card.decision is not None
            threshold = detector.card.decision.pixel_threshold(name)
            print(
                f"{name}: {format_count(len(images), 'image')}, pixel threshold {threshold:.6g} of {files[name]}",
                flush=True,
            )
    if len(private) < OBJECTS:
        print(f"This holds {len(private)} of the {OBJECTS} objects of MVTec AD 2: the benchmark takes all of them")
    print(f"The submission is {output}")


def model_of(models: Path, name: str) -> Path:
    """The detector of an object. Raises UserError where there is none."""
    if not models.is_dir() or (models / "checkpoints").is_dir():
        return models
    for file in (models / name, *(models / f"{name}{suffix}" for suffix in (".ckpt", *EXPORTED))):
        if file.exists():
            return file
    raise UserError(f"no model for {name} in {models}: expected its run {models / name}, or a file called like it")


def judged(detector: Detector, name: str, images: list[Path]) -> Iterator[tuple[str, bytes]]:
    """What the archive holds of an object: names and contents. Raises UserError where the model is not for it."""
    decision = detector.card.decision
    if decision is None or decision.pixel_threshold() is None:
        raise UserError(f"the model for {name} has no pixel threshold: take one that gives maps and was validated")
    if name not in decision.scores:
        raise UserError(
            f"the model for {name} was trained on {', '.join(decision.scores)}: its threshold is not {name}'s"
        )
    for image, detection in zip(images, detector.stream(images, name), strict=True):
        assert detection.anomaly_map is not None and detection.mask is not None
        below = f"{name}/{image.parent.name}/{image.stem}"
        yield f"anomaly_images/{below}.tiff", tiff(half(detection.anomaly_map, image))
        yield f"anomaly_images_thresholded/{below}.png", png(detection.mask)


def half(anomaly_map: NDArray[np.float32], image: Path) -> NDArray[np.float16]:
    """A map (H, W) in float16. Raises UserError on a value that has none."""
    highest = float(np.abs(anomaly_map).max())
    if highest > _HIGHEST:
        raise UserError(f"the map of {image} reaches {highest:.6g}, but float16, as the benchmark has it, {_HIGHEST:g}")
    return anomaly_map.astype(np.float16)


def tiff(values: NDArray[np.float16]) -> bytes:
    """(H, W) as a TIFF file."""
    file = io.BytesIO()
    tifffile.imwrite(file, values)
    return file.getvalue()


def png(mask: NDArray[np.bool_]) -> bytes:
    """(H, W) as a PNG file of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
    return file.getvalue()
