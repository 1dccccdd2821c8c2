"""`lit-ad fit | validate | test | predict --config FILE`: LightningCLI with a run directory."""

import ctypes
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from jsonargparse import ActionConfigFile
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, Namespace, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad import __version__
from lit_ad.checkpoint import CheckpointFile, read_checkpoint
from lit_ad.data import AnomalyDataModule, Images
from lit_ad.data.augment import Augmentation
from lit_ad.distributed import is_lost_connection
from lit_ad.errors import UserError
from lit_ad.evaluation import Dashboard, Evaluation, Heatmaps, Predictions, Report
from lit_ad.evaluation.report.stopwatch import TrainingRecord
from lit_ad.evaluation.sinks.dashboard import show_config
from lit_ad.files import atomic_write, resolve_path, resolve_paths
from lit_ad.integrity import first_line
from lit_ad.lightning_cli.help import BriefHelp, in_one_line, set_titles
from lit_ad.lightning_cli.jsonargparse_workarounds import allow_file_names, refuse_inherited, rewrite_nulls
from lit_ad.lightning_cli.launcher import refuse_separate_trainings, take_devices
from lit_ad.methods.base import Method
from lit_ad.names import map_texts, printable
from lit_ad.training import Calibration, FeatureCache
from lit_ad.training.best_checkpoint import BestCheckpoint
from lit_ad.training.checkpoints import KeepProgress
from lit_ad.training.final_weights import FinalWeights
from lit_ad.training.interruption import Interruption
from lit_ad.training.loggers import Dashboards, by_name, forgiving, guard
from lit_ad.training.monitors import MonitorCheck
from lit_ad.training.resumption import Resumption
from lit_ad.training.run_directory import RunDirectory, quoted
from lit_ad.training.speed import TrainingSpeed
from lit_ad.training.watch import KILL, Watch


class SaveConfig(SaveConfigCallback):
    """RUN/config.yaml: everything needed to do the run again, or to test its checkpoint from any directory.

    It does not name its own directory: a run may be moved, and doing it again makes a new one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            config = self.config.clone()
            config.trainer.default_root_dir = config.checkpoint.dirpath = None
            del config["ckpt_path"]  # or it would overrule one that is typed before --config
            if config.dashboards:
                config.trainer.logger = None  # they are made from their names
            with atomic_write(Path(trainer.default_root_dir) / "config.yaml") as temporary:
                temporary.write_text(text := self.parser.dump(config, skip_none=False), encoding="utf-8")
            for logger in trainer.loggers:
                logger.log_hyperparams(map_texts(printable, yaml.safe_load(text)))
                guard(logger, show_config)(logger, text)


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


class AnomalyCLI(LightningCLI):
    """A run lives in trainer.default_root_dir: given, or that of the checkpoint, or runs/METHOD/TIME."""

    directory: RunDirectory | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Parse, make and run everything."""
        try:
            super().__init__(*args, **kwargs)
        finally:
            if self.directory is not None:
                trainer = getattr(self, "trainer", None)
                self.directory.leave(begun=trainer is not None and trainer.global_step > 0)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The one that was typed: the parser of each takes a third of a second to make."""
        every = LightningCLI.subcommands()
        return {name: skipped for name, skipped in every.items() if name in sys.argv[1:2]} or every

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        allow_file_names()
        kwargs.setdefault("dump_header", [f"lit_ad=={__version__}"])
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="A YAML file of all keys.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(FeatureCache, "cache")
        parser.add_lightning_class_args(Calibration, "decision")
        parser.add_class_arguments(Evaluation, "evaluation", skip={"sinks"})  # which have keys of their own
        parser.callback_keys.append("evaluation")
        parser.add_class_arguments(Heatmaps, "heatmaps")
        parser.add_class_arguments(Predictions, "predictions")
        parser.add_class_arguments(Dashboard, "dashboard")
        self.add_run_arguments(parser)
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the best checkpoint once trained.")
        set_titles(parser)

    def add_run_arguments(self, parser: LightningArgumentParser) -> None:
        """Those of every run, a detector's or not."""
        # The model says how images are looked at; the data hears of it when both are made.
        parser.link_arguments("model.view", "data.view", apply_on="instantiate")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/loss", "checkpoint.filename": "best"})
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.enable_version_counter": False})
        parser.add_argument("--dashboards", type=Dashboards, default=[], help="wandb, tensorboard, or both.")
        waits = "Seconds after which processes that all wait for one another end, and say which one is missing."
        parser.add_argument("--patience", type=float, default=300.0, help=waits)
        parser.add_argument("--overwrite", type=bool, default=False, help="fit into a directory that holds a run.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if args is None or isinstance(args, list):
            refuse_inherited(args or sys.argv[1:], self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Lightning would put the checkpoint's hyperparameters over what the user typed; config.yaml has them."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check_augment(config.data.augment)
        absolute(config)
        take_devices(config.trainer)
        if self.subcommand == "fit":
            check_lengths(config)
            check_epochs_left(config)
            without_sanity_check(config.trainer)
            stop_after_validation(config.trainer)
        elif not config.ckpt_path:
            raise UserError(
                f"{self.subcommand} needs a trained model: give --ckpt_path, such as RUN/checkpoints/best.ckpt"
            )
        home = self._home(config)
        config.trainer.default_root_dir = str(home)
        if config.dashboards:
            if config.trainer.logger not in (None, True):
                raise UserError("give dashboards, which are loggers by name, or trainer.logger, not both")
            config.trainer.logger = [by_name(name, home) for name in config.dashboards]
        elif config.trainer.logger is None:
            config.trainer.logger = False  # Lightning's default would leave lightning_logs/version_N beside the run
        config.weights_only = True  # as CheckpointFile has it anyway
        if self.subcommand == "predict":
            config.return_predictions = False  # the maps of all images, in memory
        if "verbose" in config:
            config.verbose = False  # Evaluation prints a shorter table
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(home / "checkpoints")

    def _home(self, config: Namespace) -> Path:
        """The run's directory: given, that of the checkpoint, or a new one."""
        checkpoint = Path(config.ckpt_path or "")
        of_checkpoint = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
        given = config.trainer.default_root_dir or of_checkpoint
        if given is None:
            self.directory = RunDirectory.new(config.model.class_path.rsplit(".", 1)[-1].lower())
        else:
            self.directory = RunDirectory(resolve_path(given))
            fresh = self.subcommand == "fit" and not config.ckpt_path and not config.overwrite
            if fresh and not config.trainer.fast_dev_run:
                self.directory.refuse_used()
        return self.directory.path

    def _run_subcommand(self, subcommand: str) -> None:
        if self.trainer.world_size > 1:
            self.watch.join(self.trainer)
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException:
            # Lightning would leave with 0, which a scheduler takes for a finished run.
            sys.exit(128 + self.interruption.stopped_by)
        except Exception as error:
            if self.trainer.strategy.launcher is not None:
                self.trainer.strategy.launcher.kill(KILL)  # the processes that this one has started
            if not is_lost_connection(error):
                raise
            rank = f"rank {self.trainer.global_rank} of {self.trainer.world_size}"
            raise UserError(
                f"{rank} has lost another process: what ended that one is printed above, or in its log"
            ) from error
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                sys.exit(128 + signal.SIGINT)  # and Lightning with 1, which is an error's
            raise

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Raises UserError where Lightning refuses what trainer.* asks for, such as an accelerator of another name."""
        made = self.config_init[self.subcommand]
        if "evaluation" in made:
            made.evaluation.sinks = [made.heatmaps, made.predictions, Report(), made.dashboard]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"there is no such trainer: {first_line(error)}") from error

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        refuse_separate_trainings(self.trainer.world_size)
        writes = self.subcommand == "fit" and not self.config.fit.trainer.fast_dev_run
        if self.directory is not None and writes and self.trainer.is_global_zero:
            self.directory.take()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_memory()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of the user's
            self.trainer.strategy.checkpoint_io = CheckpointFile()
        self.trainer.loggers = forgiving(self.trainer.loggers)
        checkpoint = self.config[self.subcommand].checkpoint
        last = Path(checkpoint.dirpath) / "last.ckpt"
        self.interruption, self.watch = Interruption(last), Watch(self.config[self.subcommand].patience)
        self.keep = KeepProgress(
            last if checkpoint.save_last else None,
            checkpoint.every_n_train_steps,
            checkpoint.train_time_interval,
            checkpoint.save_on_exception,
        )
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.save_last = False  # which is of the latest that was best, and no file is to be written twice
        if checkpoint.save_last:
            self.trainer.callbacks.append(FinalWeights(last))  # type: ignore[attr-defined]
        self.trainer.callbacks += [MonitorCheck(), Resumption(), TrainingSpeed(), TrainingRecord(), self.keep]  # type: ignore[attr-defined]
        self.trainer.callbacks += [self.interruption, self.watch]  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        config = self.config.fit
        if not self.trainer.state.finished or config.trainer.fast_dev_run:
            return
        if config.test_after_fit and self.datamodule.splits.test:
            self.test_file()
        home = Path(self.trainer.default_root_dir)
        files = [
            "config.yaml",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "metrics.json",
            "scores.csv",
            "report.html",
            "heatmaps",
        ]
        there = [file for file in files if (home / file).exists()]
        self.say(f"This run is in {home}: {', '.join(there)}")
        checkpoint = next((home / file for file in there if file.endswith(".ckpt")), None)
        if checkpoint is not None and "config.yaml" in there:
            self.say(
                f"Next: lit-ad predict --config {quoted(home / 'config.yaml')} --ckpt_path {quoted(checkpoint)} "
                "--data.predict_path FOLDER"
            )

    def test_file(self) -> None:
        """Test the best checkpoint: the latest where none is kept, what is in memory where neither is."""
        best = Path(getattr(self.trainer.checkpoint_callback, "best_model_path", "") or "none")
        last = self.keep.checkpoint
        file = best if best.is_file() else last if last is not None and last.is_file() else None
        if file != best:
            self.say(f"No best checkpoint was kept: the test is of {file.name if file else 'the weights in memory'}")
        path = None if file is None else str(file)
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False)

    def after_validate(self) -> None:
        loss = self.trainer.callback_metrics.get("val/loss")
        count = len(self.datamodule.splits.val)
        decision = self.model.decision
        said = [] if loss is None else [f"val/loss {float(loss):.6g} of {count} held-out nominal images"]
        if decision is not None:
            point = decision.operating_point()
            rate = f" at a false-alarm rate of {decision.false_alarm:g}"
            said.append(f"threshold {point}" if point.by_hand else f"threshold {point.threshold:.6g}{rate}")
        self.say(*said, "validate saves nothing: the decision of the checkpoint stays as it is")

    def after_test(self) -> None:
        home = Path(self.trainer.default_root_dir)
        there = [file for file in ("metrics.json", "scores.csv", "report.html", "heatmaps") if (home / file).exists()]
        self.say(f"{', '.join(there)} are in {home}")

    def after_predict(self) -> None:
        predictions = self._get(self.config_init, "predictions")
        self.say(*predictions.summary())
        folder = self.datamodule.predict_path
        for remark in [] if folder is None else Images(folder).remarks():
            self.say(f"In {folder}: {remark}")
        if predictions.failed:
            sys.exit(1)

    def say(self, *lines: str) -> None:
        if self.trainer.is_global_zero:
            print(*lines, sep="\n")


def check_augment(augment: Any) -> None:
    """Raises UserError where a list of transforms that the parser could not read was taken for the path of a file."""
    if isinstance(augment, Path) and str(augment).startswith(("[", "{")):
        parser = Parser(exit_on_error=False)
        parser.add_argument("--data.augment", type=list[Augmentation])
        parser.parse_args([f"--data.augment={augment}"])


def check_lengths(config: Namespace) -> None:
    """Raises UserError where a fit would end without a model, or without a threshold."""
    trainer = config.trainer
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise UserError(f"trainer.{name} is 0: nothing would be trained, and metrics would be of a random network")
    if trainer.limit_val_batches == 0:
        raise UserError(
            "trainer.limit_val_batches is 0: without held-out nominal images there are no threshold and no best.ckpt"
        )


def check_epochs_left(config: Namespace) -> None:
    """Raises UserError where a checkpoint to go on from has more epochs or steps than are asked for."""
    if not config.ckpt_path:
        return
    checkpoint = read_checkpoint(config.ckpt_path)
    finished, steps = int(checkpoint.get("epoch", -1)) + 1, int(checkpoint.get("global_step", 0))
    if config.trainer.max_steps not in (None, -1) and steps > config.trainer.max_steps:
        raise UserError(
            f"{config.ckpt_path} is of step {steps}, and trainer.max_steps is {config.trainer.max_steps}: ask for more "
            "steps, or test it with lit-ad test"
        )
    if config.trainer.max_epochs not in (None, -1) and finished > config.trainer.max_epochs:
        raise UserError(
            f"{config.ckpt_path} is of epoch {finished}, and trainer.max_epochs is {config.trainer.max_epochs}: ask "
            "for more epochs, or test it with lit-ad test"
        )


def without_sanity_check(trainer: Namespace) -> None:
    """No batches are validated before a training whose first epoch ends in a validation, unless they are asked for:
    Lightning's two are often all held-out images there are, and what they would find, that validation does."""
    if trainer.num_sanity_val_steps is None and trainer.check_val_every_n_epoch == 1:
        trainer.num_sanity_val_steps = 0


def stop_after_validation(trainer: Namespace) -> None:
    """EarlyStopping looks at a value of the validation right after it, and not at the end of the epoch: a training that
    goes on from best.ckpt, which is saved between the two, would find no value there."""
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    for callback in callbacks:
        if isinstance(callback, Namespace) and callback.class_path.endswith(".EarlyStopping"):
            arguments = callback.init_args
            if arguments.check_on_train_epoch_end is None and arguments.monitor.startswith("val/"):
                arguments.check_on_train_epoch_end = False


def main(arguments: list[str]) -> None:
    """The commands of Lightning. Its parser reads sys.argv, which is what a process for another GPU is started with."""
    check_config_files(arguments)
    AnomalyCLI(
        Method,
        AnomalyDataModule,
        subclass_mode_model=True,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10},
        auto_configure_optimizers=False,
        parser_kwargs={"formatter_class": BriefHelp},
    )


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


def keep_memory() -> None:
    """Have glibc reuse what a step frees. It returns large tensors to Linux, which then hands them out page by page,
    filled with zeros: on a CPU a sixth of a training step, a quarter of MKD's maps."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def absolute(config: Namespace) -> None:
    """Resolve the paths in a configuration, so that it serves from any directory; those of weights, which are text."""
    resolve_paths(config)
    for key, value in list(config.items()):
        if key.endswith("weights") and isinstance(value, str) and Path(value).is_file():  # or hub, or pip:PACKAGE
            config[key] = str(resolve_path(value))
