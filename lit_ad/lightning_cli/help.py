"""`lit-ad fit --help`: one line for each key."""

import argparse
import re
import shutil
import textwrap
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_ad.methods import __all__ as METHODS

_TITLES = {"trainer": "trainer, of Lightning", "cache": "cache, of features", "checkpoint": "checkpoint, of Lightning"}
ABOUT = {  # option -> its help, in place of jsonargparse's longer one
    "--model": f"{', '.join(METHODS)}, or your own; each of its keys as --model.KEY VALUE.",
    "--model.help": "The keys of a method: --model.help STFPM.",
    "--data.source.help": "The keys of a source: --data.source.help Folder.",
}
NAME = 36  # columns of the terminal for the name of a key


def set_titles(parser: ArgumentParser) -> None:
    """Set the title of each group of options to its key; jsonargparse takes the first sentence of a docstring."""
    for key, group in (parser.groups or {}).items():
        group.title = _TITLES.get(key, key)


class BriefHelp(DefaultHelpFormatter):
    """A help formatter that prints one line for each key: name, default and first sentence."""

    command = ""  # name of the command in the usage. Empty: the parser's name

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        if prefix == "":  # the parser of a subcommand asks for its own name
            return str(super()._format_usage(usage, actions, groups, prefix))
        return (
            f"usage: {self.command or self._prog.replace(' [options]', '')} --config FILE [--KEY VALUE ...]\n\n"
            "--print_config shows every key with its value, as YAML.\n\n"
        )

    def add_text(self, text: str | None) -> None:
        """Leave out all text other than the keys."""

    def _format_action(self, action: argparse.Action) -> str:
        name = max((option for option in action.option_strings if option[-1] != "+"), key=len, default="")
        whole_group = action.help == "Path to a configuration file."
        linked = " --> " in name  # a link between two keys: users cannot type it
        if not name or linked or whole_group or (name.endswith(".help") and name not in ABOUT):
            return ""
        default = "" if action.default in (None, argparse.SUPPRESS) else str(action.default)
        indent = " " * (NAME + 4)
        first = f"  {name:{NAME}}  {f'[{default}] ' if default and len(default) < 40 else ''}"
        width = max(80, min(120, shutil.get_terminal_size((120, 24)).columns))
        about = ABOUT.get(name) or _take_first_sentence(action.help or "")
        return textwrap.fill(first + about, width, subsequent_indent=indent) + "\n"


def _take_first_sentence(text: str) -> str:
    """Return the first sentence of a help text, on one line."""
    text = re.sub(r"\s+", " ", text.replace("``", "")).strip()
    return re.split(r"(?<=[.:]) (?=[A-Z-])", text)[0].replace("%%", "%")
