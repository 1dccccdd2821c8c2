"""Train from a program: `fit` does the same as the command `lit-ad fit`, and returns the run."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.shipped_configs import find_config

ROOT = "data.source.root"  # the key that `data` of `fit` stands for
PROGRAM = Path(__file__).with_name("__main__.py")  # the program that Lightning starts again for each further device


@dataclass(frozen=True)
class Run:
    """A finished training: its metrics, its loss and its detector, from its directory.

    Args:
        directory: The run directory, such as runs/stfpm/20260101-120000.

    Raises:
        UserError: There is no such directory.
    """

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))  # for callers that give a text
        if not self.directory.is_dir():
            raise UserError(f"there is no run directory {self.directory}")

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of the test, such as `metrics["pooled"]["image_auroc"]`: "pooled" is all images together, and
        there is a row for each category and each kind of defect. `RUN/metrics.json` has more.

        Raises:
            UserError: The run was not tested.
        """
        file = self.directory / "metrics.json"
        if not file.is_file():
            raise UserError(f"there is no {file}: the run was not tested; lit-ad test {self.directory} does it")
        rows: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
        return rows

    @property
    def val_loss(self) -> float:
        """The lowest loss on the held-out nominal images. The best checkpoint has the weights of that epoch.

        Use it to compare runs of one method: no defect and no test image is part of it. Losses of different methods, or
        of different image sizes, cannot be compared.

        Raises:
            UserError: The run's best checkpoint was not chosen by this loss.
        """
        from lit_ad.checkpoint import read_checkpoint  # imports torch

        file = self.directory / "checkpoints/best.ckpt"
        for state in read_checkpoint(file)["callbacks"].values():
            if state.get("monitor") == "val/loss":
                return float(state["best_model_score"])
        raise UserError(f"{file} was not chosen by val/loss: train with checkpoint.monitor val/loss")

    def detector(self, device: str = "cpu") -> Detector:
        """Load the detector of the best checkpoint.

        Args:
            device: cpu, cuda or cuda:1.

        Raises:
            UserError: The run has no checkpoint, or there is no such device.
        """
        return Detector.load(self.directory, device=device)


def fit(config: str | Path, data: str | Path | None = None, keys: Mapping[str, Any] | None = None) -> Run:
    """Train, test the best checkpoint and write a run directory, as `lit-ad fit --config CONFIG` does.

    Defaults, callbacks, output and figures are those of the command. The run directory is runs/METHOD/TIME, unless the
    key trainer.default_root_dir names another one.

    Args:
        config: A YAML file, or the name of one that comes with lit_ad, such as stfpm.
        data: The folder of images, for the source in the file: the key data.source.root.
        keys: Other keys of the configuration and their values, with dots, {"trainer.max_epochs": 3}, or nested as in a
            file, {"trainer": {"max_epochs": 3}}. A class is its name, or {"class_path": ..., "init_args": ...}.

    Returns:
        The run. Use its `directory`, `metrics` and `detector()`.

    Raises:
        UserError: An error that the command would print as one line.
        KeyboardInterrupt: Ctrl-C stopped the training; the output tells how to go on.

    Example:
        run = lit_ad.fit("configs/stfpm.yaml", data="PATH/TO/mvtec/bottle", keys={"trainer.max_epochs": 50})
        print(run.directory, run.metrics["pooled"]["image_auroc"])
        print(run.detector()("part.png").anomalous)
    """
    from lit_ad.commands.main import find_user_error, format_warning, prepare, quiet

    words = write_words(config, data, {} if keys is None else keys)
    with _command_line(["fit", *words]), warnings.catch_warnings():
        prepare()
        quiet()
        from lit_ad.lightning_cli.cli import main  # only after prepare()

        formats, warnings.formatwarning = warnings.formatwarning, format_warning  # after the import, which sets another
        try:
            trained = main(words)
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
        except Exception as error:
            mended = find_user_error(error)
            if mended is None or isinstance(error, UserError):
                raise
            raise UserError(str(mended)) from error
        finally:
            warnings.formatwarning = formats
    return Run(Path(trained.trainer.default_root_dir))


def write_words(config: str | Path, data: str | Path | None, keys: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `fit` as the words of the command.

    Raises UserError if an argument has a wrong type, or a key is given twice.
    """
    if not isinstance(config, str | os.PathLike):
        raise UserError(f"config is of type {type(config).__name__}: give a file or a name, and single keys as keys")
    if not isinstance(data, str | os.PathLike | None):
        raise UserError(
            f"data is of type {type(data).__name__}: give the folder of images; another source is a key, "
            '{"data.source": {"class_path": NAME, "init_args": {...}}}'
        )
    if not isinstance(keys, Mapping):
        raise UserError(f'keys is of type {type(keys).__name__}: give a dictionary, {{"trainer.max_epochs": 3}}')
    pairs = [] if data is None else [(ROOT, resolve_path(data))]
    pairs += flatten(keys)
    source = dict(pairs).get("data.source")
    names = [key for key, _ in pairs]
    if data is not None and isinstance(source, Mapping) and "root" in source.get("init_args", {}):
        names.append(ROOT)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        where = "as data and in keys" if data is not None and twice[0] == ROOT else "in keys"
        raise UserError(f"{twice[0]} is given twice, {where}: leave out one of them")
    if "config" in names:
        raise UserError("config is no key: give the file as fit's config, and single keys as keys")
    return [f"--config={find_config(config)}", *(f"--{key}={write_value(key, value)}" for key, value in pairs)]


def flatten(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key, with dots, and its value. A class and its arguments stay one value."""
    for key, value in keys.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def write_value(key: str, value: Any) -> str:
    """Return a value as text for the command line. Raises UserError if it cannot be written as text."""
    if isinstance(value, str | os.PathLike):
        return str(value)

    def refuse(part: object) -> str:
        if isinstance(part, os.PathLike):
            return str(part)
        raise UserError(
            f"{key} is, or contains, a {type(part).__name__}: a run is recorded as text, so give numbers, texts, "
            'lists, or for an object {"class_path": NAME, "init_args": {...}}'
        )

    return json.dumps(value, default=refuse)


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """Set sys.argv to the words, for the command's parser and for the processes that it starts.

    Afterwards, sys.argv and sys.path are restored.
    """
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(PROGRAM), *words]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
