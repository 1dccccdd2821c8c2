"""The argument of a command that names a detector: a run's directory, a checkpoint or an exported file."""

from pathlib import Path

from lit_ad.detector.run_files import find_detector
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import tell


def require_detector(command: str, run: Path | None, ckpt_path: Path | None) -> Path:
    """Return the detector's file. For a run's directory, print which of its files that is.

    Args:
        command: The command's name, for the message.
        run: The word after the command: a run's directory or a file.
        ckpt_path: The same, given as `--ckpt_path`.

    Raises:
        UserError: Neither or both are given, or there is no such detector.
    """
    if (run is None) == (ckpt_path is None):
        raise UserError(f"give one detector: lit-ad {command} RUN, where RUN is a run's directory or a file")
    path = run if run is not None else ckpt_path
    assert path is not None
    file = find_detector(path)
    if path.is_dir():
        tell(f"Taken from {path}: {file.relative_to(resolve_path(path))}")
    return file
