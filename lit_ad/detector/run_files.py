"""Where a detector lies: the files of a run's directory that a command or a program takes."""

from pathlib import Path

from lit_ad.errors import UserError
from lit_ad.files import resolve_path

CONFIG = "config.yaml"
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # of a run; the first that is there is taken
EXPORTED = (".onnx", ".xml", ".pt2")  # of ONNX Runtime, OpenVINO and torch.export


def find_detector(path: str | Path) -> Path:
    """The file of a detector: of a run's directory its best checkpoint, or its last where there is no best.

    Raises:
        UserError: There is no such file, or it is neither a checkpoint nor an exported file.
    """
    path = resolve_path(path)
    if path.is_dir():
        places = [path / name for name in CHECKPOINTS]
        files = [file for file in places if file.is_file()]
        if not files:
            raise UserError(f"{path} is no run directory: it has neither {' nor '.join(map(str, places))}")
        path = files[0]
    if not path.is_file():
        raise UserError(f"there is no detector {path}: give a run's directory, a checkpoint or an exported file")
    if path.suffix not in (".ckpt", *EXPORTED):
        raise UserError(f"{path} is no detector: expected a checkpoint (.ckpt) or {', '.join(EXPORTED)}")
    return path


def run_of(checkpoint: Path) -> Path | None:
    """The run's directory that a checkpoint lies in; None where it lies elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
