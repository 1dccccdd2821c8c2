"""`lit-ad data ACTION`: what is done with data sets before any training."""

from collections.abc import Callable
from typing import NamedTuple

from lit_ad.commands.lazy_import import command
from lit_ad.errors import UserError


class Action(NamedTuple):
    about: str
    run: Callable[[list[str]], None]  # given what follows the action


ACTIONS = {
    "check": Action("what a data set holds, and what is wrong with it: check PATH", command("commands.data_check")),
    "get": Action("download a data set whose licence allows it: get NAME --root DIR", command("commands.data_get")),
}


def main(arguments: list[str]) -> None:
    """The command, given what follows `lit-ad data`."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        lines = [f"  {name:6} {action.about}" for name, action in ACTIONS.items()]
        print("\n".join(["usage: lit-ad data ACTION ...", "", *lines]))
    elif arguments[0] not in ACTIONS:
        raise UserError(f"no action {arguments[0]!r} of lit-ad data: there are {', '.join(ACTIONS)}")
    else:
        ACTIONS[arguments[0]].run(arguments[1:])
