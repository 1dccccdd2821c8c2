"""The configurations that come with lit_ad: the folder configs/ of the repository, which the wheel holds too."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lit_ad.errors import UserError
from lit_ad.files import resolve_path

PACKAGE = Path(__file__).parent
CONFIGS = (PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent) / "configs"  # of a wheel, or of a checkout
NAME = re.compile(r"[\w-]+(/[\w-]+)*")  # without a suffix: no file's


def config_names() -> list[str]:
    """Return the names of all configurations, such as stfpm and benchmark/mvtec."""
    return sorted(file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml"))


def find_config(given: str | Path) -> Path:
    """Return the file that a path, or the name of a configuration of lit_ad, stands for.

    Args:
        given: A path; where it has no suffix and there is no such file, a name.

    Raises:
        UserError: There is no configuration of this name; or no such file, but a configuration of its name.
    """
    path = resolve_path(given)
    if path.is_file():
        return path
    names = config_names()
    if NAME.fullmatch(str(given)):
        if str(given) in names:
            return CONFIGS / f"{given}.yaml"
        near = get_close_matches(str(given), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UserError(f"there is no config file {given}, and none comes with lit_ad under this name: {hint}")
    if path.suffix in (".yaml", ".yml") and path.stem in names:
        raise UserError(f"there is no config file {path}: {path.stem}, without a path, is the one that lit_ad has")
    return path


def replace_names(words: Sequence[str]) -> list[str]:
    """Return a command line with the file in place of each name that is given as --config. Raises as find_config."""
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
