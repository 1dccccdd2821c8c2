"""A method of one's own: the module that a checkpoint names, where it lies in the working directory."""

import sys
from importlib import import_module
from pathlib import Path


def import_own_method(file: Path) -> None:
    """Import the module of the method that a checkpoint names, as `fit --model MODULE.CLASS` does.

    Only a module of the working directory is imported: there it is the user's own. Nothing else that a file names is
    ever run.

    Args:
        file: A checkpoint; an exported file has no class, and nothing is done.
    """
    if file.suffix != ".ckpt":
        return
    from lit_ad.checkpoint import read_checkpoint  # brings torch, which an exported file does not need

    module = str(read_checkpoint(file).get("lit_ad", {}).get("method", "")).rpartition(".")[0]
    place = Path.cwd().joinpath(*module.split("."))
    there = place.with_name(f"{place.name}.py").is_file() or (place / "__init__.py").is_file()
    if module and module not in sys.modules and there:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        import_module(module)
