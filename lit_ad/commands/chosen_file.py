"""The detector's file that a command was given: a run's directory, a checkpoint or an exported file."""

from pathlib import Path

from lit_ad.detector.run_files import find_detector
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import tell


def chosen_file(command: str, given: Path | None, ckpt_path: Path | None) -> Path:
    """The file, from the word after the command or from `--ckpt_path`. A line says which one of a run is taken.

    Raises:
        UserError: Neither or both are given, or there is no such detector.
    """
    if (given is None) == (ckpt_path is None):
        raise UserError(f"give one detector: lit-ad {command} RUN, where RUN is a run's directory or a file")
    path = given if given is not None else ckpt_path
    assert path is not None
    file = find_detector(path)
    if path.is_dir():
        tell(f"Taken from {path}: {file.relative_to(resolve_path(path))}")
    return file
