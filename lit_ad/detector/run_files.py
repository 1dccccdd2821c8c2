"""Find the file of a detector: a checkpoint of a run directory, or an exported file."""

from pathlib import Path

from lit_ad.errors import UserError
from lit_ad.files import resolve_path

CONFIG = "config.yaml"
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # in a run directory; the first that exists is loaded
EXPORTED = (".onnx", ".xml", ".pt2")  # suffixes of ONNX Runtime, OpenVINO and torch.export


def find_detector(path: str | Path) -> Path:
    """Return the file of a detector: of a run directory its best checkpoint, or its last one if there is no best.

    Raises:
        UserError: There is no such file, or it is neither a checkpoint nor an exported file.
    """
    path = resolve_path(path)
    if path.is_dir():
        existing = [path / name for name in CHECKPOINTS if (path / name).is_file()]
        if not existing:
            inside = [str(file) for file in sorted(path.iterdir()) if file.suffix in (".ckpt", *EXPORTED)]
            remedy = f"; give a file: {' or '.join(inside)}" if inside else ""
            raise UserError(f"{path} is no run directory: it has neither {' nor '.join(CHECKPOINTS)}{remedy}")
        path = existing[0]
    if not path.is_file():
        raise UserError(f"there is no detector {path}: give a run's directory, a checkpoint or an exported file")
    if path.suffix not in (".ckpt", *EXPORTED):
        raise UserError(f"{path} is no detector: expected a checkpoint (.ckpt) or {', '.join(EXPORTED)}")
    return path


def find_run(checkpoint: Path) -> Path | None:
    """Return the run directory of a checkpoint. None if the checkpoint is in no run directory."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
