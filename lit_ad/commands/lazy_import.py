"""Modules that are imported when a command needs them."""

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def command(module: str) -> Callable[[list[str]], None]:
    """Return the `main` of a module of lit_ad, which is imported when it is called."""

    def run(arguments: list[str]) -> None:
        imported(f"lit_ad.{module}").main(arguments)

    return run


def imported(name: str) -> Any:
    """A module, imported without the garbage collector, which never looks at what it brings.

    The half a million objects of torch, Lightning and timm stay until the end. To look through all of them for garbage
    while they are made, and once more before they are given back, is a third of the time that a command takes to start.
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
