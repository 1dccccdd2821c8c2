"""The parser of a command line and its config files. What it cannot read ends in one line."""

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
from lit_ad.lightning_cli.help import in_one_line
from lit_ad.lightning_cli.jsonargparse_workarounds import rewrite_nulls


class Parser(LightningArgumentParser):
    """Ends in one line where the command line or a file is wrong."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any
    ) -> Namespace:
        return super().parse_args(rewrite_nulls(sys.argv[1:] if args is None else args), *more, **kwargs)

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of Trainer.fit and the like, such as ckpt_path, to the options that belong to no group."""
        return super().add_method_arguments(*args, **{**kwargs, "as_group": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if "__class_fullname__" in message:
            raise UserError(
                "data.augment has the content of a file that albumentations' A.save wrote: give the file itself, "
                "data.augment: FILE"
            )
        raise UserError(in_one_line(message, list(self.get_defaults(skip_validation=True).keys())))


def check_config_files(arguments: list[str]) -> None:
    """Raises UserError that names a config file that is none; the parser would leave out its name."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, inline = flag.partition("=")
        if name not in ("--config", "-c"):
            continue
        file = resolve_path(inline if equals else value)
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the config file {file}: {error}") from error
        except yaml.YAMLError as error:
            where = re.sub(r"\s+", " ", str(error).replace('"<unicode string>"', "it"))
            raise UserError(f"the config file {file} is no YAML: {where}") from error
        if not isinstance(content, dict):
            raise UserError(f"the config file {file} is empty, or holds no keys")


def check_augment(augment: Any) -> None:
    """Raises UserError where a list of transforms that the parser could not read was taken for the path of a file."""
    if isinstance(augment, Path) and str(augment).startswith(("[", "{")):
        parser = Parser(exit_on_error=False)
        parser.add_argument("--data.augment", type=list[Augmentation])
        parser.parse_args([f"--data.augment={augment}"])
