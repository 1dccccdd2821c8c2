"""Where a run's files go, under which names, and never half-written."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import lightning as L
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.maps import crop, upsample


def run_dir(trainer: L.Trainer) -> Path:
    """The run's directory, the same on every process (call it on all of them)."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` when the block ends well and removed when it does not.

    Raises:
        OSError: It cannot be written; the message has the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def file_name(batch: Batch, i: int, suffix: str) -> PurePath:
    """CATEGORY/FOLDER/NAME for image i, where its folder is named after the defect type, "good", or a nominal class.

    An image to predict keeps its folder below the one given, which is its category.
    """
    path = Path(batch.path[i])
    folder = path.parent.name if int(batch.label[i]) >= 0 else ""
    return PurePath(batch.category[i], folder, path.stem + suffix)


def verdict(score: float, threshold: float) -> str:
    """What a score means: "anomalous" above the threshold, else "nominal"; nothing without a threshold (NaN)."""
    return "" if math.isnan(threshold) else ("anomalous" if score > threshold else "nominal")


def content_map(prediction: Prediction, batch: Batch, i: int) -> Tensor:
    """The anomaly map of image i without padding, at the method's resolution: (1, 1, h, w)."""
    assert prediction.anomaly_map is not None and batch.image is not None
    canvas = (batch.image.shape[-2], batch.image.shape[-1])
    return crop(prediction.anomaly_map[i : i + 1], canvas, batch.box[i])


def original_map(prediction: Prediction, batch: Batch, i: int) -> Tensor:
    """The anomaly map of image i without padding, at its original size: (H0, W0) float32."""
    content = content_map(prediction, batch, i)
    return (content if tuple(content.shape[-2:]) == batch.size[i] else upsample(content, batch.size[i]))[0, 0].float()
