"""The console scripts `lit-ad` and `lightning`: the table of commands, and which of them is run."""

import codecs
import locale
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from lit_ad.commands.lazy_import import import_function
from lit_ad.errors import UserError, gpu_out_of_memory, killed_worker
from lit_ad.names import escape_bytes
from lit_ad.shipped_configs import replace_names
from lit_ad.version import __version__


class _Command(NamedTuple):
    about: str
    function: str  # of lit_ad, imported when the command is typed
    lightning: bool = (
        False  # LightningCLI parses what is typed; of the others, the function's signature says what may be
    )
    config_file: bool = False  # --config FILE may give the arguments


COMMANDS = {
    "fit": _Command(
        "train on nominal images, test the best checkpoint, write heatmaps", "lightning_cli.cli.main", lightning=True
    ),
    "validate": _Command("loss on held-out nominal images", "lightning_cli.cli.main", lightning=True),
    "test": _Command(
        "metrics and heatmaps of a run's best checkpoint: RUN",
        "lightning_cli.cli.main",
        lightning=True,
    ),
    "predict": _Command(
        "scores, maps and heatmaps of unlabelled images: RUN IMAGES, or an exported FILE IMAGES",
        "commands.predict.predict",
        lightning=True,
    ),
    "report": _Command("one page of several runs beside one another: RUN...", "commands.report.report"),
    "distill": _Command(
        "train EfficientAD's teacher on photographs: RUN/pdn_small.safetensors",
        "lightning_cli.distill.main",
        lightning=True,
    ),
    "export": _Command(
        "a run's detector as one file for ONNX Runtime, OpenVINO or torch.export: RUN", "commands.export.export"
    ),
    "verify": _Command("an exported file beside its checkpoint, on this machine: FILE", "commands.verify.verify"),
    "serve": _Command("a detector as a web service: POST an image, get a verdict", "commands.serve.serve"),
    "watch": _Command(
        "judge the images of a folder that fills, a camera or a pipe: SOURCE --detector RUN", "commands.watch.watch"
    ),
    "journal": _Command("what a service's journal holds, and a reset of its tests: DIR", "commands.journal.journal"),
    "grow": _Command(
        "train a detector on with confirmed images of its line, and ship it if it is no worse: RUN --journal DIR",
        "commands.grow.grow",
    ),
    "recalibrate": _Command(
        "other thresholds: from good images, for a rate, by hand: RUN", "commands.recalibrate.recalibrate"
    ),
    "speed": _Command("latency, images/s and memory of runs and exported files: RUN FILE...", "commands.speed.speed"),
    "benchmark": _Command(
        "methods x categories or classes x seeds, and the tables of them",
        "commands.benchmark.benchmark",
        config_file=True,
    ),
    "data check": _Command("what a data set holds, and what is wrong with it: PATH", "commands.data_check.data_check"),
    "data get": _Command("download a data set whose licence allows it: NAME --root DIR", "commands.data_get.data_get"),
    "data shift": _Command(
        "a copy of a test set under other light, to measure a detector by: PATH", "commands.data_shift.data_shift"
    ),
    "submission": _Command(
        "the private tests of MVTec AD 2, as its benchmark takes them", "commands.submission.submission"
    ),
    "cache": _Command("the feature caches on this machine; clear and prune remove them", "commands.cache.cache"),
}

_EXAMPLES = """
Every key of a config file can be given on the command line, and --print_config shows them all with their values.
  lit-ad fit --config configs/stfpm.yaml --data.source.root PATH/TO/mvtec/bottle
  lit-ad fit --config ... --dashboards '[wandb, tensorboard]'
  lit-ad fit --help                     all keys
  lit-ad fit --model.help STFPM         the keys of a method
  lit-ad fit --data.source.help Folder  the keys of a source of images
"""

_EXPECTED_WARNINGS = (  # of things that are as they should be
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
    "You're using the WeightAveraging callback",  # no method is sharded, and a test needs no state of it
    r"Image size \(\d+ pixels\) exceeds limit",  # Pillow's; the limit that counts is in image/limits.py
)
NOISE = (  # how Lightning's own messages begin that tell a user nothing to act on
    *("💡 Tip", "TPU available", "HPU available", "GPU available: False", "Seed set to"),
    "You are using a CUDA device",  # that has Tensor Cores, and what a program is to call: docs/training.md has a key
    *("`Trainer.fit` stopped: `max_epochs", "`Trainer.fit` stopped: `max_steps"),
    *("Restoring states from the checkpoint", "Loaded model weights from the checkpoint"),
    *("Restored all states from the checkpoint",),
)


def main() -> None:
    _use_utf8()
    arguments = sys.argv[1:]
    codecs.register_error("lit_ad.escape", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # and not what a test or a notebook has in its place
            stream.reconfigure(errors="lit_ad.escape")
    if arguments == ["--version"]:
        return print(f"lit-ad {__version__}")
    if arguments in ([], ["-h"], ["--help"], ["help"]):
        return print(_overview())
    prepare()
    quiet()
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("\nlit-ad: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = mendable(error)
        if message is None:
            raise
        sys.exit(f"lit-ad: {message}")


def prepare() -> None:
    """Set what libraries look at when they are imported."""
    sys.path.append(str(Path.cwd()))  # a method or a source of one's own lies in the directory one works in
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look at the network when it is imported
    # wandb waits 90 seconds for a network that is not there; and 10 more to greet the user by name, unless it is quiet.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "10")
    os.environ.setdefault("WANDB_QUIET", "true")


def escape(error: UnicodeError) -> tuple[str, int]:
    """What the console shows of characters that its encoding has not, and of bytes in a file's name: escapes."""
    assert isinstance(error, UnicodeEncodeError)
    text = escape_bytes(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode (PEP 540) where the locale has another encoding, in which
    libraries would read and write text files, such as configurations."""
    utf8 = sys.flags.utf8_mode or locale.getencoding().lower() in ("utf-8", "utf8")
    started_by_us = sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :] == sys.argv[1:]  # and not by a test
    if os.name == "posix" and not utf8 and started_by_us and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # for the processes that it starts, too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run(words: list[str]) -> None:
    """Run the command that was typed. Raises UserError if there is none of this name."""
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        print("\n".join([f"usage: lit-ad {words[0]} ...", "", *lines(group)]))
        return
    typed = " ".join(words[: 2 if group else 1])
    if typed not in COMMANDS:
        near = get_close_matches(typed, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(group or COMMANDS)}"
        raise UserError(f"no command {typed!r}: {hint}")
    command, rest = COMMANDS[typed], replace_names(words[len(typed.split()) :])
    function = import_function(command.function)
    warnings.formatwarning = format_warning  # now: Lightning sets its own when it is imported
    if command.lightning:
        function(rest)
    else:
        from lit_ad.commands.signature import call

        call(function, f"lit-ad {typed}", rest, command.config_file)


def mendable(error: BaseException | None) -> BaseException | None:
    """What the user can mend, in our words or Lightning's; anything else is a bug and keeps its traceback.

    The command line's parser tries a value as each type that it may have, and raises an error of its own from ours.
    """
    if known := killed_worker(error) or gpu_out_of_memory(error):
        return known
    while error is not None:
        if isinstance(error, UserError) or type(error).__name__ == "MisconfigurationException":
            return error
        error = error.__cause__
    return None


def format_warning(message: Warning | str, *_: object, **__: object) -> str:
    """Return what the console shows of a warning: its text, without the place in a library that it came from."""
    return f"Warning: {message}\n"


def quiet() -> None:
    """Nothing on the console that means nothing to a user."""
    for expected in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning tells a user something to act on."""
    return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage()).startswith(NOISE)  # as Lightning marks it


def _overview() -> str:
    """The help text."""
    return "\n".join(["usage: lit-ad COMMAND --config FILE [--KEY VALUE ...]", "", *lines(COMMANDS), _EXAMPLES])


def lines(names: Iterable[str]) -> list[str]:
    """A line of help for each command."""
    return [f"  {name:11} {COMMANDS[name].about}" for name in names]
