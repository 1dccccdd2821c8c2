"""`lit-ad test RUN`, `validate RUN`, `predict RUN IMAGES`: turn the words before the first option into options."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from lit_ad.detector.run_files import CONFIG, EXPORTED, find_detector, find_run
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import tell

USAGE = {"validate": "RUN", "test": "RUN", "predict": "RUN IMAGES"}


def take_leading_words(arguments: Sequence[str]) -> list[str]:
    """Return the words before the first option."""
    return list(takewhile(lambda word: not word.startswith("-"), arguments))


def has_option(arguments: Sequence[str], *options: str) -> bool:
    """Return whether one of the options is among the arguments."""
    return any(word.partition("=")[0] in options for word in arguments)


def expand_run(command: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with options in place of the words before the first option.

    RUN becomes `--config RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt`, and IMAGES becomes
    `--data.predict_path IMAGES`. A line says which files are used.

    Args:
        command: validate, test or predict. For another command, the arguments are returned unchanged.
        arguments: The words after the command. RUN is a run's directory, or a checkpoint in one.

    Raises:
        UserError: There is an option that only fit has, a word too many, no such run or checkpoint, or no config file.
    """
    if command in USAGE and has_option(arguments, "--decision.folds"):
        raise UserError(f"decision.folds is for lit-ad fit only: {command} uses the decision that the training made")
    words = take_leading_words(arguments)
    if not words or command not in USAGE:
        return list(arguments)
    rest = list(arguments[len(words) :])
    if len(words) > len(USAGE[command].split()):
        raise UserError(f"lit-ad {command} {' '.join(words)}: expected lit-ad {command} {USAGE[command]}, then options")
    given, *images = words
    options = []
    if has_option(rest, "--ckpt_path") and resolve_path(given).is_dir():  # another checkpoint of the run
        checkpoint, home = None, resolve_path(given)
    else:
        checkpoint = find_detector(given)
        if checkpoint.suffix in EXPORTED:
            raise UserError(
                f"{given} is an exported file, and {command} needs a run: give the one that it was exported from, "
                f"lit-ad {command} RUN. To judge images by the file: lit-ad predict {given} IMAGES"
            )
        home = find_run(checkpoint) or checkpoint.parent
    if (home / CONFIG).is_file():
        options += ["--config", str(home / CONFIG)]
    elif not has_option(rest, "--config", "-c"):
        raise UserError(f"{given} has no config file {home / CONFIG}: give --config FILE, with the data for {command}")
    if checkpoint is not None:
        options += ["--ckpt_path", str(checkpoint)]
    from lit_ad.training.run_directory import is_first  # imports Lightning, which an exported file does not need

    if is_first():
        files = " and ".join(str(Path(file).relative_to(home)) for file in options[1::2])
        tell(f"Taken from {home}: {files}")
    return [*options, *(["--data.predict_path", images[0]] if images else []), *rest]
