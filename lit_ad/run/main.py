"""The console scripts `lit-ad` and `lightning`: a table of commands."""

import os
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

from lit_ad.errors import UserError


def lightning(arguments: list[str]) -> None:
    from lit_ad.run.cli import main

    main()


def protocol(arguments: list[str]) -> None:
    from lit_ad.run.protocol import main

    main(arguments[1:])


class Command(NamedTuple):
    about: str
    run: Callable[[list[str]], None]  # given what was typed, the command first


COMMANDS = {
    "fit": Command("train on nominal images, test the best checkpoint, write heatmaps", lightning),
    "validate": Command("loss on held-out nominal images", lightning),
    "test": Command("metrics and heatmaps of a checkpoint: --ckpt_path RUN/checkpoints/best.ckpt", lightning),
    "predict": Command("scores, maps and heatmaps of unlabelled images: --data.predict_path FOLDER", lightning),
    "protocol": Command("every class of a labelled data set in turn, and the table of them", protocol),
}

EXAMPLES = """
Every key of a config file can be given on the command line, and --print_config shows them all with their values.
  lit-ad fit --config configs/stfpm.yaml --data.source.root PATH/TO/mvtec/bottle
  lit-ad fit --config ... --dashboards '[wandb, tensorboard]'
  lit-ad fit --help                     all keys
  lit-ad fit --model.help STFPM         the keys of a method
  lit-ad fit --data.source.help Folder  the keys of a source of images
"""

EXPECTED_WARNINGS = (  # of things that are as they should be
    r"Found \d+ module\(s\) in eval mode",  # the frozen teacher
    "The number of training batches",
    "The '.*_dataloader' does not have many workers",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in ([], ["-h"], ["--help"], ["help"]):
        return print(overview())
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look at the network when it is imported
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    try:
        if arguments[0] not in COMMANDS:
            near = get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise UserError(f"no command {arguments[0]!r}: {hint}")
        COMMANDS[arguments[0]].run(arguments)
    except UserError as error:  # what the user can mend; anything else is a bug and keeps its traceback
        sys.exit(f"lit-ad: {error}")


def overview() -> str:
    """The help text."""
    lines = [f"  {name:10} {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lit-ad COMMAND --config FILE [--KEY VALUE ...]", "", *lines, EXAMPLES])
