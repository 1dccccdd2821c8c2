"""The console scripts `lit-ad` and `lightning`: a table of commands."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from lit_ad import __version__
from lit_ad.commands.lazy_import import command
from lit_ad.errors import UserError


class Command(NamedTuple):
    about: str
    run: Callable[[list[str]], None]  # given what follows the command


COMMANDS = {
    "fit": Command("train on nominal images, test the best checkpoint, write heatmaps", command("lightning_cli.cli")),
    "validate": Command("loss on held-out nominal images", command("lightning_cli.cli")),
    "test": Command(
        "metrics and heatmaps of a checkpoint: --ckpt_path RUN/checkpoints/best.ckpt", command("lightning_cli.cli")
    ),
    "predict": Command(
        "scores, maps and heatmaps of unlabelled images: --data.predict_path FOLDER", command("lightning_cli.cli")
    ),
    "report": Command("one page of several runs beside one another: RUN...", command("commands.report")),
    "distill": Command(
        "train EfficientAD's teacher on photographs: RUN/pdn_small.safetensors", command("commands.distill")
    ),
    "export": Command(
        "a checkpoint as one file for ONNX Runtime, OpenVINO or torch.export", command("commands.export")
    ),
    "serve": Command("a detector as a web service: POST an image, get a verdict", command("commands.serve")),
    "recalibrate": Command("thresholds from more good images, without training", command("commands.recalibrate")),
    "speed": Command("latency, images/s and memory of checkpoints and exported files", command("commands.speed")),
    "benchmark": Command(
        "methods x categories or classes x seeds, and the tables of them", command("benchmark.runner")
    ),
    "data": Command(
        "data sets: check PATH says what is in one and what is wrong with it, get NAME downloads one",
        command("commands.data"),
    ),
    "submission": Command(
        "the private tests of MVTec AD 2, as its benchmark takes them", command("commands.submission")
    ),
    "cache": Command("the feature caches on this machine; clear and prune remove them", command("commands.cache")),
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
    r"\s*(By default only one JsonargparseDeprecationWarning|``|skip_none parameter)",
    "The dirpath has changed from",  # a checkpoint measured in another directory
    # Values that are equal on all processes, or that we have reduced ourselves; repeated images are left out.
    r"It is recommended to use `self.log\('(test/|system/|train/images_per_second|train/lr)",
    "Using `DistributedSampler` with the dataloaders",
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
    r"Image size \(\d+ pixels\) exceeds limit",  # Pillow's; the limit that counts is in image/limits.py
)
ADVERTISEMENTS = ("💡 Tip", "TPU available", "HPU available")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        return print(f"lit-ad {__version__}")
    if arguments in ([], ["-h"], ["--help"], ["help"]):
        return print(overview())
    sys.path.append(str(Path.cwd()))  # a method or a source of one's own lies in the directory one works in
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look at the network when it is imported
    # wandb waits 90 seconds for a network that is not there; and 10 more to greet the user by name, unless it is quiet.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "10")
    os.environ.setdefault("WANDB_QUIET", "true")
    quiet()
    try:
        if arguments[0] not in COMMANDS:
            near = get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise UserError(f"no command {arguments[0]!r}: {hint}")
        COMMANDS[arguments[0]].run(arguments[1:])
    except KeyboardInterrupt:
        print("\nlit-ad: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        said = mendable(error)
        if said is None:
            raise
        sys.exit(f"lit-ad: {said}")


def mendable(error: BaseException | None) -> BaseException | None:
    """What the user can mend, in our words or Lightning's; anything else is a bug and keeps its traceback.

    The command line's parser tries a value as each type that it may have, and raises an error of its own from ours.
    """
    while error is not None:
        if isinstance(error, UserError) or type(error).__name__ == "MisconfigurationException":
            return error
        error = error.__cause__
    return None


def quiet() -> None:
    """Nothing on the console that means nothing to a user."""
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(ADVERTISEMENTS))


def overview() -> str:
    """The help text."""
    lines = [f"  {name:11} {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lit-ad COMMAND --config FILE [--KEY VALUE ...]", "", *lines, EXAMPLES])
