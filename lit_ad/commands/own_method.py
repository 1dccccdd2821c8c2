"""Import a user's own method: the module that a checkpoint names, if it lies in the working directory."""

import sys
from importlib import import_module
from pathlib import Path


def import_own_method(file: Path) -> None:
    """Import the module of the method that a checkpoint names, as `fit --model MODULE.CLASS` does.

    Only a module in the working directory is imported, because it is the user's own. No other code that a file names is
    ever run.

    Args:
        file: A checkpoint. For an exported file nothing is imported, because it needs no class.
    """
    if file.suffix != ".ckpt":
        return
    from lit_ad.checkpoint import read_checkpoint  # imports torch, which an exported file does not need

    module = str(read_checkpoint(file).get("lit_ad", {}).get("method", "")).rpartition(".")[0]
    place = Path.cwd().joinpath(*module.split("."))
    exists = place.with_name(f"{place.name}.py").is_file() or (place / "__init__.py").is_file()
    if module and module not in sys.modules and exists:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        import_module(module)
