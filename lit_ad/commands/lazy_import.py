"""Import a command's function only when the command is typed, because torch and Lightning take seconds."""

import gc
from importlib import import_module
from typing import Any


def import_function(name: str) -> Any:
    """Return the function `lit_ad.NAME`, such as `commands.report.report`.

    The garbage collector is off during the import, and ignores the imported objects afterwards. torch, Lightning and
    timm make half a million objects that live until the end; to scan them, a command would take half as long again to
    start and end.
    """
    module, function = name.rsplit(".", 1)
    gc.disable()
    try:
        return getattr(import_module(f"lit_ad.{module}"), function)
    finally:
        gc.freeze()
        gc.enable()
