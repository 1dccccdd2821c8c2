"""Find the configurations that come with lit_ad: the folder configs/ of the repository, which is also in the wheel."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lit_ad.errors import UserError
from lit_ad.files import resolve_path

PACKAGE = Path(__file__).parent
CONFIGS = (PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent) / "configs"  # in a wheel, or in a checkout
NAME = re.compile(r"[\w-]+(/[\w-]+)*")  # the name of a shipped configuration; a file's name has a suffix


def list_config_names() -> list[str]:
    """Return the names of all configurations, such as stfpm and benchmark/mvtec."""
    return sorted(file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml"))


def find_config(given: str | Path) -> Path:
    """Return the file of a path, or of the name of a configuration of lit_ad.

    Args:
        given: A path. If it has no suffix and there is no such file, it is a name.

    Raises:
        UserError: There is no configuration with this name; or there is no such file, but a configuration with its
            name.
    """
    path = resolve_path(given)
    if path.is_file():
        return path
    names = list_config_names()
    if NAME.fullmatch(str(given)):
        if str(given) in names:
            return CONFIGS / f"{given}.yaml"
        near = get_close_matches(str(given), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UserError(f"there is no config file {given}, and none comes with lit_ad under this name: {hint}")
    if path.suffix in (".yaml", ".yml") and path.stem in names:
        raise UserError(f"there is no config file {path}: lit_ad's own one is {path.stem}, without a path")
    return path


def replace_names(words: Sequence[str]) -> list[str]:
    """Return a command line in which names after --config are replaced by files. Raises UserError as `find_config`."""
    replaced: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config", "-c") and value:
            replaced.append(f"{name}{equals}{find_config(value)}")
        elif replaced and replaced[-1] in ("--config", "-c") and word and not word.startswith("-"):
            replaced.append(str(find_config(word)))
        else:
            replaced.append(word)
    return replaced
