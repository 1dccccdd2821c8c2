"""`lit-ad test RUN`, `validate RUN` and `predict RUN IMAGES`: the options that the words before the first one mean."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from lit_ad.detector.run_files import CONFIG, EXPORTED, find_detector, run_of
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import tell

USAGE = {"validate": "RUN", "test": "RUN", "predict": "RUN IMAGES"}


def leading_words(arguments: Sequence[str]) -> list[str]:
    """The words before the first option."""
    return list(takewhile(lambda word: not word.startswith("-"), arguments))


def typed(arguments: Sequence[str], *options: str) -> bool:
    """Whether one of some options is given."""
    return any(word.partition("=")[0] in options for word in arguments)


def expand_run(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with options in place of the words before them: `--config RUN/config.yaml` and `--ckpt_path
    RUN/checkpoints/best.ckpt`, and of predict `--data.predict_path IMAGES`. A line says which files are taken.

    Args:
        command: validate, test or predict; of another command, the arguments come back as they are.
        arguments: What follows the command. RUN is a run's directory, or a checkpoint in one.

    Raises:
        UserError: An option of fit alone, too many words, no run or checkpoint of that name, or no configuration.
    """
    if command in USAGE and typed(arguments, "--decision.folds"):
        raise UserError(f"decision.folds is for lit-ad fit: {command} takes the decision that the training left")
    words = leading_words(arguments)
    if not words or command not in USAGE:
        return list(arguments)
    rest = list(arguments[len(words) :])
    if len(words) > len(USAGE[command].split()):
        raise UserError(f"lit-ad {command} {' '.join(words)}: expected lit-ad {command} {USAGE[command]}, then options")
    given, *images = words
    options = []
    if typed(rest, "--ckpt_path") and resolve_path(given).is_dir():  # another one of the run's
        checkpoint, home = None, resolve_path(given)
    else:
        checkpoint = find_detector(given)
        if checkpoint.suffix in EXPORTED:
            raise UserError(
                f"{given} is an exported file, which {command} does not take: give the run that it was exported from, "
                f"lit-ad {command} RUN; lit-ad predict {given} IMAGES judges images by it"
            )
        home = run_of(checkpoint) or checkpoint.parent
    if (home / CONFIG).is_file():
        options += ["--config", str(home / CONFIG)]
    elif not typed(rest, "--config", "-c"):
        raise UserError(f"{given} has no {home / CONFIG} beside it: give --config FILE, with the data to {command}")
    if checkpoint is not None:
        options += ["--ckpt_path", str(checkpoint)]
    from lit_ad.training.run_directory import is_first  # brings Lightning, which an exported file needs not

    if is_first():
        files = " and ".join(str(Path(file).relative_to(home)) for file in options[1::2])
        tell(f"Taken from {home}: {files}")
    return [*options, *(["--data.predict_path", images[0]] if images else []), *rest]
