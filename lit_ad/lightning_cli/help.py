"""`lit-ad fit --help`: one line a key."""

import argparse
import re
import shutil
import textwrap
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_ad.methods import __all__ as METHODS

_TITLES = {"trainer": "trainer, of Lightning", "cache": "cache, of features", "checkpoint": "checkpoint, of Lightning"}
ABOUT = {  # what jsonargparse says less well
    "--model": f"{', '.join(METHODS)}, or your own; each of its keys as --model.KEY VALUE.",
    "--model.help": "The keys of a method: --model.help STFPM.",
    "--data.source.help": "The keys of a source: --data.source.help Folder.",
}
NAME = 36  # columns


def set_titles(parser: ArgumentParser) -> None:
    """Call each group of options by its key, and not by the first sentence of a docstring."""
    for key, group in (parser.groups or {}).items():
        group.title = _TITLES.get(key, key)


class BriefHelp(DefaultHelpFormatter):
    """Name, default and first sentence of every key that can be given."""

    command = ""  # in the usage, where the parser's own name is another one

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        if prefix == "":  # asked for by the parser of a subcommand, as its name
            return str(super()._format_usage(usage, actions, groups, prefix))
        return (
            f"usage: {self.command or self._prog.replace(' [options]', '')} --config FILE [--KEY VALUE ...]\n\n"
            "--print_config shows every key with its value, as YAML.\n\n"
        )

    def add_text(self, text: str | None) -> None:
        """Nothing but the keys."""

    def _format_action(self, action: argparse.Action) -> str:
        name = max((option for option in action.option_strings if option[-1] != "+"), key=len, default="")
        whole_group = action.help == "Path to a configuration file."
        linked = " --> " in name  # the row of a link; its value cannot be typed
        if not name or linked or whole_group or (name.endswith(".help") and name not in ABOUT):
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
