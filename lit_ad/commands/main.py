"""The console scripts `lit-ad` and `lightning`: the table of commands, and the function that runs one of them."""

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
from lit_ad.errors import UserError, explain_gpu_out_of_memory, explain_killed_worker
from lit_ad.names import escape_bytes
from lit_ad.shipped_configs import replace_names
from lit_ad.version import __version__


class _Command(NamedTuple):
    about: str  # its line of help
    function: str  # its path below lit_ad; the function is imported when the command is typed
    lightning: bool = False  # True: LightningCLI parses the typed words. False: the function's signature is the schema
    config_file: bool = False  # whether --config FILE may give the arguments


COMMANDS = {
    "fit": _Command(
        "train on nominal images, test the best checkpoint, write heatmaps", "lightning_cli.cli.main", lightning=True
    ),
    "validate": _Command("measure the loss on held-out nominal images", "lightning_cli.cli.main", lightning=True),
    "test": _Command(
        "measure a run's best checkpoint on the test images, and write heatmaps: RUN",
        "lightning_cli.cli.main",
        lightning=True,
    ),
    "predict": _Command(
        "judge unlabelled images, and write scores, maps and heatmaps: RUN IMAGES, or an exported FILE IMAGES",
        "commands.predict.predict",
        lightning=True,
    ),
    "report": _Command("write one page that compares several runs: RUN...", "commands.report.report"),
    "distill": _Command(
        "train EfficientAD's teacher on photographs, and write RUN/pdn_small.safetensors",
        "lightning_cli.distill.main",
        lightning=True,
    ),
    "export": _Command(
        "write a run's detector as one file for ONNX Runtime, OpenVINO or torch.export: RUN", "commands.export.export"
    ),
    "verify": _Command("compare an exported file with its checkpoint on this machine: FILE", "commands.verify.verify"),
    "serve": _Command(
        "run a detector as a web service: RUN or FILE; POST an image, get a verdict", "commands.serve.serve"
    ),
    "watch": _Command(
        "judge the images of a folder, a camera or a pipe as they come: SOURCE --detector RUN", "commands.watch.watch"
    ),
    "journal": _Command(
        "print what a service's journal holds, or reset its tests for drift: DIR", "commands.journal.journal"
    ),
    "grow": _Command(
        "continue the training of a detector with confirmed images of its production line, and ship it if it is no "
        "worse: RUN --journal DIR",
        "commands.grow.grow",
    ),
    "recalibrate": _Command(
        "change the thresholds: from more good images, for another rate, or by hand: RUN",
        "commands.recalibrate.recalibrate",
    ),
    "speed": _Command(
        "measure latency, images/s and memory of runs and exported files: RUN FILE...", "commands.speed.speed"
    ),
    "benchmark": _Command(
        "compare methods on categories or classes, with several seeds, and write the tables",
        "commands.benchmark.benchmark",
        config_file=True,
    ),
    "data check": _Command(
        "print what a data set holds, and what is wrong with it: PATH", "commands.data_check.data_check"
    ),
    "data get": _Command("download a data set whose licence allows it: NAME --root DIR", "commands.data_get.data_get"),
    "data shift": _Command(
        "copy a test set under other light, to measure how well a detector copes with it: PATH",
        "commands.data_shift.data_shift",
    ),
    "submission": _Command(
        "judge the private tests of MVTec AD 2, and write the archive that its benchmark takes",
        "commands.submission.submission",
    ),
    "cache": _Command("list the feature caches on this machine; clear and prune remove them", "commands.cache.cache"),
}

_EXAMPLES = """
Every key of a config file can be given on the command line, and --print_config shows them all with their values.
  lit-ad fit --config configs/stfpm.yaml --data.source.root PATH/TO/mvtec/bottle
  lit-ad fit --config ... --dashboards '[wandb, tensorboard]'
  lit-ad fit --help                     all keys
  lit-ad fit --model.help STFPM         the keys of a method
  lit-ad fit --data.source.help Folder  the keys of a source of images
"""

_EXPECTED_WARNINGS = (  # hidden: they warn of things that are as they should be
    r"Found \d+ module\(s\) in eval mode",  # the frozen teacher
    "The number of training batches",
    "The '.*_dataloader' does not have many workers",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"\s*(By default only one JsonargparseDeprecationWarning|``|skip_none parameter)",  # calls by Lightning
    "The dirpath has changed from",  # a checkpoint measured in another directory
    # These values are equal on all processes, or already reduced by us. Our samplers repeat no image.
    r"It is recommended to use `self.log\('(test/|system/|train/images_per_second|train/lr)",
    "Using `DistributedSampler` with the dataloaders",
    "Checkpoint directory .* exists and is not empty",  # a resumed run
    "No complete tensor found in the group",  # torch.export.save of a loaded program: the weights are the same
    "You're using the WeightAveraging callback",  # no method is sharded, and a test does not need its state
    r"Image size \(\d+ pixels\) exceeds limit",  # Pillow's; the limit that counts is in image/limits.py
)
NOISE = (  # hidden: beginnings of those messages of Lightning that a user cannot act on
    *("💡 Tip", "TPU available", "HPU available", "GPU available: False", "Seed set to"),
    "You are using a CUDA device",  # it advises a call for Tensor Cores; docs/training.md names a key for it
    *("`Trainer.fit` stopped: `max_epochs", "`Trainer.fit` stopped: `max_steps"),
    *("Restoring states from the checkpoint", "Loaded model weights from the checkpoint"),
)


def main() -> None:
    """Run the command of `sys.argv`. An error that the user can mend is printed as one line, with exit code 1."""
    _use_utf8()
    arguments = sys.argv[1:]
    codecs.register_error("lit_ad.escape", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # tests and notebooks put other objects in its place
            stream.reconfigure(errors="lit_ad.escape")
    if arguments == ["--version"]:
        return print(f"lit-ad {__version__}")
    if arguments in ([], ["-h"], ["--help"], ["help"]):
        return print(_make_overview())
    prepare()
    quiet()
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("\nlit-ad: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = find_user_error(error)
        if message is None:
            raise
        sys.exit(f"lit-ad: {message}")


def prepare() -> None:
    """Set the import path and the environment variables that libraries read when they are imported."""
    sys.path.append(str(Path.cwd()))  # users keep methods and sources of their own in the working directory
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations would look for updates at its import
    # Without internet access, wandb waits 90 seconds, and 10 more to greet the user by name unless it is quiet.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "10")
    os.environ.setdefault("WANDB_QUIET", "true")


def escape(error: UnicodeError) -> tuple[str, int]:
    """Escape what the console cannot show: characters outside its encoding, and bytes of a file's name.

    An error handler of `codecs`: return the escapes, and the position at which the text goes on.
    """
    assert isinstance(error, UnicodeEncodeError)
    text = escape_bytes(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode (PEP 540) where the locale has another encoding.

    Otherwise libraries would read and write text files, such as configurations, in the locale's encoding.
    """
    utf8 = sys.flags.utf8_mode or locale.getencoding().lower() in ("utf-8", "utf8")
    started_by_us = sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :] == sys.argv[1:]  # False in a test
    if os.name == "posix" and not utf8 and started_by_us and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # processes that this one starts inherit it
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run(words: list[str]) -> None:
    """Run the command whose name the words begin with. Raises UserError if there is no such command."""
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        print("\n".join([f"usage: lit-ad {words[0]} ...", "", *_list_help(group)]))
        return
    typed = " ".join(words[: 2 if group else 1])
    if typed not in COMMANDS:
        near = get_close_matches(typed, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(group or COMMANDS)}"
        raise UserError(f"no command {typed!r}: {hint}")
    command, rest = COMMANDS[typed], replace_names(words[len(typed.split()) :])
    function = import_function(command.function)
    warnings.formatwarning = format_warning  # after the import, in which Lightning sets its own
    if command.lightning:
        function(rest)
    else:
        from lit_ad.commands.signature import call

        call(function, f"lit-ad {typed}", rest, command.config_file)


def find_user_error(error: BaseException | None) -> BaseException | None:
    """Return the error that the user can mend, ours or Lightning's. None: the error is a bug, and keeps its traceback.

    Our error may be the cause of another one: jsonargparse raises an error of its own from it.
    """
    if known := explain_killed_worker(error) or explain_gpu_out_of_memory(error):
        return known
    while error is not None:
        if isinstance(error, UserError) or type(error).__name__ == "MisconfigurationException":
            return error
        error = error.__cause__
    return None


def format_warning(message: Warning | str, *_: object, **__: object) -> str:
    """Return the line that the console shows for a warning: its text, without the line of code that it came from."""
    return f"Warning: {message}\n"


def quiet() -> None:
    """Hide the warnings and messages that a user cannot act on."""
    for expected in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning tells a user something to act on."""
    return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage()).startswith(NOISE)  # Lightning puts the rank first


def _make_overview() -> str:
    """Return the text of `lit-ad --help`."""
    return "\n".join(["usage: lit-ad COMMAND --config FILE [--KEY VALUE ...]", "", *_list_help(COMMANDS), _EXAMPLES])


def _list_help(names: Iterable[str]) -> list[str]:
    """Return a line of help for each command."""
    return [f"  {name:11} {COMMANDS[name].about}" for name in names]
