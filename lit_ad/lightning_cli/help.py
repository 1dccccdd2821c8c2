"""`lit-ad fit --help`: one line a key."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from jsonargparse import DefaultHelpFormatter

from lit_ad.data import __all__ as DATA
from lit_ad.methods import __all__ as METHODS

HEADINGS = {  # what the docstrings of these begin with -> what a user looks for
    "options": "what to run",
    "Customize every aspect": "trainer, of Lightning",
    "A detector": "model",
    "Nominal images": "data",
    "Compute the teacher": "cache, of features",
    "Give a method": "decision",
    "Measure raw": "evaluation",
    "Write RUN/heatmaps": "heatmaps",
    "Write RUN/predictions": "predictions",
    "Log speed": "dashboard",
    "Save the model": "checkpoint, of Lightning",
    "Runs the full": "start",
}
ABOUT = {  # what jsonargparse says less well
    "--model": f"{', '.join(METHODS)}, or your own; each of its keys as --model.KEY VALUE.",
    "--model.help": "The keys of a method: --model.help STFPM.",
    "--data.source.help": "The keys of a source: --data.source.help Folder.",
}
NAME = 36  # columns


class BriefHelp(DefaultHelpFormatter):
    """Name, default and first sentence of every key that can be given."""

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        if prefix == "":  # asked for by the parser of a subcommand, as its name
            return str(super()._format_usage(usage, actions, groups, prefix))
        return (
            f"usage: {self._prog.replace(' [options]', '')} --config FILE [--KEY VALUE ...]\n\n"
            "--print_config shows every key with its value, as YAML.\n\n"
        )

    def start_section(self, heading: str | None) -> None:
        known = (name for start, name in HEADINGS.items() if (heading or "").startswith(start))
        super().start_section(next(known, heading))

    def add_text(self, text: str | None) -> None:
        """Nothing but the keys."""

    def _format_action(self, action: argparse.Action) -> str:
        name = max((option for option in action.option_strings if option[-1] != "+"), key=len, default="")
        whole_group = action.help == "Path to a configuration file."
        if not name or whole_group or (name.endswith(".help") and name not in ABOUT):
            return ""
        default = "" if action.default in (None, argparse.SUPPRESS) else str(action.default)
        indent = " " * (NAME + 4)
        first = f"  {name:{NAME}}  {f'[{default}] ' if default and len(default) < 40 else ''}"
        width = max(80, min(120, shutil.get_terminal_size((120, 24)).columns))
        about = ABOUT.get(name) or summary(action.help or "")
        return textwrap.fill(first + about, width, subsequent_indent=indent) + "\n"


def summary(text: str) -> str:
    """The first sentence of a help text."""
    text = re.sub(r"\s+", " ", text.replace("``", "")).strip()
    return re.split(r"(?<=[.:]) (?=[A-Z-])", text)[0].replace("%%", "%")


NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")


def in_one_line(message: str, keys: Sequence[str]) -> str:
    """What the parser says of a wrong key or value, without the types it tried, and with the nearest known name."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(NOISE))
    known = [*keys, *METHODS, *DATA]
    for word in re.findall(r"[A-Za-z_][\w.]*", said):
        near = get_close_matches(word, known, n=1, cutoff=0.8)
        if near and word not in known:
            return f"{said}. Did you mean {near[0]}?"
    return said
