"""The parser of a command line and its config files. Each of its errors is one line."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, Namespace

from lit_ad.data.augment import Augmentation
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.lightning_cli.jsonargparse_workarounds import rewrite_nulls
from lit_ad.lightning_cli.messages import explain_binary_file, explain_error
from lit_ad.version import __version__


class Parser(LightningArgumentParser):
    """A parser whose errors are UserErrors of one line."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any
    ) -> Namespace:
        words = rewrite_nulls(sys.argv[1:] if args is None else args)
        try:
            return super().parse_args(words, *more, **kwargs)
        except UnicodeDecodeError:
            self.error(explain_binary_file(words))

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of Trainer.fit, test and so on, such as ckpt_path, to the options outside of all groups."""
        added: list[str] = super().add_method_arguments(*args, **{**kwargs, "as_group": False})
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if "__class_fullname__" in message:
            raise UserError(
                "data.augment has the content of a file that albumentations' A.save wrote: give the path of the file, "
                "data.augment: FILE"
            )
        if "(in " not in message:  # an inner parser of the value may have named the file already
            message += _find_file_of_key(message, sys.argv[1:])
        keys = list(self.get_defaults(skip_validation=True).keys())
        raise UserError(explain_error(message, keys, sys.argv[1:]))


def _list_config_files(arguments: Sequence[str]) -> list[Path]:
    """Return the config files on a command line. Raises UserError if --config has no value."""
    files = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            value = value if equals else next(iter(arguments[place + 1 : place + 2]), "")
            if not value or value.startswith("--"):
                raise UserError(f"{name} needs a file: {name} FILE, such as configs/stfpm.yaml")
            files.append(resolve_path(value))
    return files


def check_config_files(arguments: Sequence[str]) -> None:
    """Raise UserError, with the file's name, if a config file cannot be read; the parser would not name it."""
    for file in _list_config_files(arguments):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read the config file {file}: {reason}") from error
        except yaml.YAMLError as error:
            where = re.sub(r"\s+", " ", str(error).replace('"<unicode string>"', "it"))
            raise UserError(f"the config file {file} is not valid YAML: {where}") from error
        if not isinstance(content, dict):
            raise UserError(f"the config file {file} is empty or has no keys: give one such as configs/stfpm.yaml")


def _find_file_of_key(message: str, arguments: Sequence[str]) -> str:
    """Return " (in FILE)" if a key that the parser does not know stands in a config file; else ""."""
    unknown = re.search(r"option '([\w.]+)'", message, re.IGNORECASE)
    key = unknown[1].partition(".")[0] if unknown else ""
    typed = {word.partition("=")[0].rpartition(".")[2] for word in arguments}
    for file in _list_config_files(arguments) if key and key not in typed else ():
        text = file.read_text(encoding="utf-8")
        if re.search(rf"^\s*{re.escape(key)}\s*:", text, re.MULTILINE):
            wrote = re.match(r"# lit_ad==(\S+)", text)
            other = wrote is not None and wrote[1] != __version__
            return f" (in {file}" + (f", which lit_ad {wrote[1]} wrote: see UPGRADING.md)" if wrote and other else ")")
    return ""


def check_augment(augment: Any) -> None:
    """Raise UserError if the parser took a list of transforms, which it could not read, for the path of a file."""
    if isinstance(augment, Path) and str(augment).startswith(("[", "{")):
        parser = Parser(exit_on_error=False)
        parser.add_argument("--data.augment", type=list[Augmentation])
        parser.parse_args([f"--data.augment={augment}"])
