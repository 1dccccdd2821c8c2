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
    """Judge the private tests of MVTec AD 2, and write the archive that its benchmark takes.

    The archive has two files for each image of each object and private test. anomaly_images/OBJECT/TEST/NAME.tiff is
    the anomaly map in float16 at the image's size. anomaly_images_thresholded/OBJECT/TEST/NAME.png is 255 where the
    map lies above the pixel threshold of the object's decision, and 0 elsewhere.

    Args:
        models: A folder with a run or an exported file for each object, named like the object; or one run, checkpoint
            or exported file of a model for all objects.
        root: The folder of MVTec AD 2, or of one of its objects.
        output: The archive to write.
        weights: The teacher's weights, if a checkpoint does not find them.
        device: cpu, or the runtime's name of another device, such as cuda.

    Raises:
        UserError: An object has no model, a model has no pixel threshold for its object, or the archive exists.
    """
    if not output.name.endswith(SUFFIX):
        raise UserError(f"--output {output} must end in {SUFFIX}, as the benchmark takes it")
    if output.exists():
        raise UserError(f"{output} exists already: give another --output, or remove it")
    private = MVTecAD2(root).list_private()
    files = {name: _find_model(models, name) for name in private}  # all of them, before the first one is run
    with atomic_write(output) as temporary, tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
        for name, images in private.items():
            import_own_method(find_detector(files[name]))
            detector = Detector.load(files[name], weights, device)
            for member, content in _judge_object(detector, name, images):
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
        print(f"The archive has {len(private)} of the {OBJECTS} objects of MVTec AD 2: the benchmark needs all of them")
    print(f"The submission is {output}")


def _find_model(models: Path, name: str) -> Path:
    """Return the run or file of an object's detector. Raises UserError if there is none."""
    if not models.is_dir() or (models / "checkpoints").is_dir():
        return models
    for file in (models / name, *(models / f"{name}{suffix}" for suffix in (".ckpt", *EXPORTED))):
        if file.exists():
            return file
    raise UserError(f"no model for {name} in {models}: expected its run {models / name}, or a file of that name")


def _judge_object(detector: Detector, name: str, images: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Judge an object's images, and yield the name and the content of each file for the archive.

    Raises:
        UserError: The model has no pixel threshold, or was not trained on the object.
    """
    decision = detector.card.decision
    if decision is None or decision.pixel_threshold() is None:
        raise UserError(f"the model for {name} has no pixel threshold: give one that makes maps and was validated")
    if name not in decision.scores:
        raise UserError(
            f"the model for {name} was trained on {', '.join(decision.scores)}, so it has no threshold for {name}"
        )
    for image, detection in zip(images, detector.stream(images, name), strict=True):
        assert detection.anomaly_map is not None and detection.mask is not None
        below = f"{name}/{image.parent.name}/{image.stem}"
        yield f"anomaly_images/{below}.tiff", _encode_tiff(to_float16(detection.anomaly_map, image))
        yield f"anomaly_images_thresholded/{below}.png", _encode_png(detection.mask)


def to_float16(anomaly_map: NDArray[np.float32], image: Path) -> NDArray[np.float16]:
    """Return a map (H, W) in float16. Raises UserError if a value is too large for it."""
    highest = float(np.abs(anomaly_map).max())
    if highest > _HIGHEST:
        raise UserError(f"the map of {image} reaches {highest:.6g}, but the benchmark's float16 only {_HIGHEST:g}")
    return anomaly_map.astype(np.float16)


def _encode_tiff(values: NDArray[np.float16]) -> bytes:
    """Return the bytes of a TIFF file with (H, W) values."""
    file = io.BytesIO()
    tifffile.imwrite(file, values)
    return file.getvalue()


def _encode_png(mask: NDArray[np.bool_]) -> bytes:
    """Return the bytes of a PNG file of an (H, W) mask: 255 where it is True, else 0."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
    return file.getvalue()
