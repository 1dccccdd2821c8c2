"""Import a command's function when the command is typed: torch and Lightning take seconds."""

import gc
from importlib import import_module
from typing import Any


def import_function(name: str) -> Any:
    """Return the function `lit_ad.NAME`, such as `commands.report.report`.

    The garbage collector is off during the import and never looks at the imported objects: torch, Lightning and timm
    make half a million of them, which all live until the end. With it, a command takes half as long again to start and
    end.
    """
    module, function = name.rsplit(".", 1)
    gc.disable()
    try:
        return getattr(import_module(f"lit_ad.{module}"), function)
    finally:
        gc.freeze()
        gc.enable()
