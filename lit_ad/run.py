"""A training in a program: `fit` does what `lit-ad fit` does, and gives the run that came of it."""

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

ROOT = "data.source.root"  # the key for which `data` is short
PROGRAM = Path(__file__).with_name("__main__.py")  # Lightning starts processes for more devices by this name


@dataclass(frozen=True)
class Run:
    """What a training left in its directory.

    Args:
        directory: That of the run. Any finished run has one: `Run(Path("runs/stfpm/20260101-120000"))`.

    Raises:
        UserError: There is no such directory.
    """

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))  # of a text too
        if not self.directory.is_dir():
            raise UserError(f"there is no run directory {self.directory}")

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The test's metrics: those of all images under "pooled", and a row for each category and kind of defect, as
        `metrics["pooled"]["image_auroc"]`. `RUN/metrics.json` says more.

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
        """The lowest loss on the held-out nominal images, whose weights are the best checkpoint. To compare runs of one
        method by: it has seen no defect and no test image. Losses of two methods, or of two sizes, are not alike.

        Raises:
            UserError: The run has no checkpoint that was chosen by it.
        """
        from lit_ad.checkpoint import read_checkpoint  # which brings torch

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

    All is that command's: its defaults, its callbacks, what it prints, and so its figures. A new run is in
    runs/METHOD/TIME, unless the key trainer.default_root_dir names a directory.

    Args:
        config: A YAML file, or the name of one that comes with lit_ad, such as stfpm.
        data: The folder of images, for the source that the file names: its key data.source.root.
        keys: Other keys of the configuration and their values, by dots, {"trainer.max_epochs": 3}, or as a file has
            them, {"trainer": {"max_epochs": 3}}. A class is its name, or {"class_path": ..., "init_args": ...}.

    Returns:
        The run, of which directory, metrics and detector() are asked.

    Raises:
        UserError: What the command would say in one line.
        KeyboardInterrupt: It was stopped by Ctrl-C; what is printed says how to go on.

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
        from lit_ad.lightning_cli.cli import main  # once prepare has been called

        formats, warnings.formatwarning = warnings.formatwarning, format_warning  # now: Lightning sets its own
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
    """Write the arguments of `fit` as the words of the command. Raises UserError on what is none, or is given twice."""
    if not isinstance(config, str | os.PathLike):
        raise UserError(f"config is of type {type(config).__name__}: give a file or a name, and single keys as keys")
    if not isinstance(data, str | os.PathLike | None):
        raise UserError(
            f"data is of type {type(data).__name__}: give the folder of images; another source is a key, "
            '{"data.source": {"class_path": NAME, "init_args": {...}}}'
        )
    if not isinstance(keys, Mapping):
        raise UserError(f'keys is of type {type(keys).__name__}: give a dictionary, {{"trainer.max_epochs": 3}}')
    given = [] if data is None else [(ROOT, resolve_path(data))]
    given += flatten(keys)
    source = dict(given).get("data.source")
    names = [key for key, _ in given]
    if data is not None and isinstance(source, Mapping) and "root" in source.get("init_args", {}):
        names.append(ROOT)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        where = "as data and in keys" if data is not None and twice[0] == ROOT else "in keys"
        raise UserError(f"{twice[0]} is given twice, {where}: leave out one of them")
    if "config" in names:
        raise UserError("config is no key: give the file as fit's config, and single keys as keys")
    return [f"--config={find_config(config)}", *(f"--{key}={write_value(key, value)}" for key, value in given)]


def flatten(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key by dots, and its value; a class and its arguments stay one value."""
    for key, value in keys.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def write_value(key: str, value: Any) -> str:
    """Write a value as it is typed on a command line. Raises UserError if it cannot be typed."""
    if isinstance(value, str | os.PathLike):
        return str(value)

    def refuse(part: object) -> str:
        if isinstance(part, os.PathLike):
            return str(part)
        raise UserError(
            f"{key} is, or holds, a {type(part).__name__}: a run is written down as text, so give numbers, texts, "
            'lists, or of a class {"class_path": NAME, "init_args": {...}}'
        )

    return json.dumps(value, default=refuse)


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """Have the words in sys.argv, which the command's parser reads, and the processes that it starts are given.
    Afterwards, sys.argv and sys.path are as before."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(PROGRAM), *words]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
