"""`lit-ad fit | validate | test | predict --config FILE`: LightningCLI with a run directory."""

import signal
import sys
from pathlib import Path
from typing import Any, Self

import lightning as L
from jsonargparse import ActionConfigFile
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, Namespace
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad.checkpoint import CheckpointFile
from lit_ad.data import AnomalyDataModule, Images
from lit_ad.detector.run_files import find_run
from lit_ad.distributed import is_lost_connection
from lit_ad.errors import UserError, check_number
from lit_ad.evaluation import Dashboard, Evaluation, Heatmaps, Predictions, Report
from lit_ad.files import resolve_path
from lit_ad.integrity import first_line
from lit_ad.lightning_cli.callbacks import add_callbacks
from lit_ad.lightning_cli.closing import describe_run, describe_test, describe_validation
from lit_ad.lightning_cli.folds import fix_length, train_folds
from lit_ad.lightning_cli.help import BriefHelp, set_titles
from lit_ad.lightning_cli.jsonargparse_workarounds import allow_file_names, refuse_inherited
from lit_ad.lightning_cli.launcher import refuse_copies, refuse_separate_trainings, take_devices
from lit_ad.lightning_cli.output_folders import check_output_folders
from lit_ad.lightning_cli.parser import Parser, check_augment, check_config_files
from lit_ad.lightning_cli.run_words import expand_run
from lit_ad.lightning_cli.save_config import SaveConfig
from lit_ad.lightning_cli.settings import (
    check_data_root,
    check_fit,
    check_model_and_images,
    check_seed,
    make_paths_absolute,
    set_loggers,
    set_validations,
    wants_progress,
)
from lit_ad.machine import keep_memory, release_memory
from lit_ad.methods.base import Method
from lit_ad.training import Calibration, FeatureCache
from lit_ad.training.best_checkpoint import BestCheckpoint
from lit_ad.training.loggers import Dashboards, open_loggers
from lit_ad.training.progress import Progress
from lit_ad.training.run_directory import RunDirectory, find_test_directory
from lit_ad.training.watch import KILL
from lit_ad.version import __version__


class AnomalyCLI(LightningCLI):
    """LightningCLI with a run directory, the commands' own keys, checks, and lines at the end.

    The run directory is trainer.default_root_dir, or that of the checkpoint, or a new one, runs/METHOD/TIME.
    """

    directory: RunDirectory | None = None

    def __init__(self, *args: Any, parsed: Namespace | None = None, **kwargs: Any) -> None:
        """Parse the command line, make all objects, and run the command. `parsed`: a configuration to use instead."""
        self.arguments, self.parsed = (args, kwargs), parsed
        try:
            super().__init__(*args, **kwargs)
        finally:
            if self.directory is not None:
                self.directory.leave(begun=hasattr(self, "trainer") and self.trainer.global_step > 0)

    def run_again(self, config: Namespace) -> Self:
        """Run this command with another configuration, and return the new object."""
        args, kwargs = self.arguments
        trained = type(self)(*args, parsed=config, **kwargs)
        if started := getattr(trained.trainer.strategy.launcher, "procs", None):
            launcher: Any = self.trainer.strategy.launcher
            # The first training started the other processes, and all trainings share them. This launcher must know them
            # too, so that it can end them.
            launcher.procs = started
        return trained

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the typed subcommand only, because making the parser of each takes a third of a second."""
        every = LightningCLI.subcommands()
        return {name: skipped for name, skipped in every.items() if name in sys.argv[1:2]} or every

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        allow_file_names()
        kwargs["allow_abbrev"] = False  # a shortened key could mean another one in the next version
        kwargs.setdefault("dump_header", [f"lit_ad=={__version__}"])
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="A YAML file of all keys.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(FeatureCache, "cache")
        parser.add_lightning_class_args(Calibration, "decision")
        parser.link_arguments("decision.folds", "data.split.folds")
        parser.add_class_arguments(Evaluation, "evaluation", skip={"sinks"})  # the sinks have keys of their own
        parser.callback_keys.append("evaluation")
        parser.add_class_arguments(Heatmaps, "heatmaps")
        parser.add_class_arguments(Predictions, "predictions")
        parser.add_class_arguments(Dashboard, "dashboard")
        self.add_run_arguments(parser)
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the best checkpoint once trained.")
        set_titles(parser)

    def add_run_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the keys of every run, also of a run that trains no detector."""
        # The model decides the view of the images. The data gets the view when both are made.
        parser.link_arguments("model.view", "data.view", apply_on="instantiate")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/loss", "checkpoint.filename": "best"})
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.enable_version_counter": False})
        parser.add_argument("--dashboards", type=Dashboards, default=[], help="wandb, tensorboard, or both.")
        waits = "Seconds to wait for another process. After that, all processes end"
        named = "and a message names the missing process."
        parser.add_argument("--patience", type=float, default=300.0, help=f"{waits}, {named}")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Write over the run or the test in the directory."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.parsed is not None:
            self.config = self.parsed
            return
        super().parse_arguments(parser, args)
        if args is None or isinstance(args, list):
            refuse_inherited(args or sys.argv[1:], self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would override the typed keys by the checkpoint's, which are in config.yaml anyway."""

    def _set_seed(self) -> None:
        check_seed(self._get(self.config, "seed_everything"))
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check_augment(config.data.augment)
        make_paths_absolute(config)
        check_data_root(config)
        check_output_folders(config)
        refuse_copies(config.trainer)
        take_devices(config.trainer)
        check_number("patience", config.patience, least=0, above=True)
        if config.trainer.enable_model_summary is None:
            config.trainer.enable_model_summary = False  # Progress says in one line what is trained
        if self.subcommand == "fit":
            check_fit(config)
            if config.data.split.folds is not None:
                fix_length(config)
            set_validations(config.trainer)
        else:
            check_model_and_images(str(self.subcommand), config)
        home = self._choose_directory(config)
        place = find_test_directory(home) if self.subcommand == "test" and not config.overwrite else home
        if place != home:
            self.directory = RunDirectory(place)
        config.trainer.default_root_dir = str(place)
        set_loggers(config, home)
        config.weights_only = True  # CheckpointFile reads nothing else
        if self.subcommand == "predict":
            config.return_predictions = False  # they would keep the maps of all images in memory
        if "verbose" in config:
            config.verbose = False  # Evaluation prints a shorter table
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(home / "checkpoints")

    def _choose_directory(self, config: Namespace) -> Path:
        """Return the run's directory: the given one, that of the checkpoint, or a new one.

        Raises:
            UserError: A new fit was given the directory of another run.
        """
        given = config.trainer.default_root_dir or find_run(Path(config.ckpt_path or ""))
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
            if subcommand == "fit" and self.datamodule.split.folds and self.datamodule.split.fold is None:
                self._decide_by_folds()
            super()._run_subcommand(subcommand)
        except SIGTERMException:
            # Lightning would exit with 0, which a scheduler would take for a finished run.
            sys.exit(128 + self.interruption.stopped_by)
        except Exception as error:
            if self.trainer.strategy.launcher is not None:
                self.trainer.strategy.launcher.kill(KILL)  # the processes that this one has started
            if not is_lost_connection(error):
                raise
            rank = f"rank {self.trainer.global_rank} of {self.trainer.world_size}"
            raise UserError(
                f"{rank} has lost another process: the reason is printed above, or is in that process's log"
            ) from error
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                sys.exit(128 + signal.SIGINT)  # Lightning would exit with 1, as after an error
            raise

    def _decide_by_folds(self) -> None:
        """Train the folds, and give the decision of their scores to the callback of the last training."""
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            with self.interruption.between_trainings(self.trainer):
                self._get(self.config_init, "decision").left_out = train_folds(self)
            self._set_seed()  # otherwise the last training would depend on the number of trainings before it

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the trainer. Raises UserError if Lightning refuses a value of a key, such as an unknown accelerator."""
        made = self.config_init[self.subcommand]
        if "evaluation" in made:
            made.evaluation.sinks = [made.heatmaps, made.predictions, Report(), made.dashboard]
        if wants_progress(made.trainer):
            self.trainer_defaults["callbacks"] = [Progress()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"Lightning refuses a key of trainer: {first_line(error)}") from error

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        refuse_separate_trainings(self.trainer.world_size)
        writes = self.subcommand == "fit" and not self.config.fit.trainer.fast_dev_run
        if self.directory is not None and writes and self.trainer.is_global_zero:
            self.directory.take()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_memory()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's own
            self.trainer.strategy.checkpoint_io = CheckpointFile()
        self.trainer.loggers = open_loggers(self.trainer.loggers)
        self.interruption, self.watch, self.keep = add_callbacks(self.trainer, self.config[self.subcommand])

    def after_fit(self) -> None:
        config = self.config.fit
        if not self.trainer.state.finished or config.trainer.fast_dev_run or config.data.split.fold is not None:
            return
        if config.test_after_fit and self.datamodule.splits.test:
            release_memory()
            self._test_best_checkpoint()
        self.print_lines(*describe_run(Path(self.trainer.default_root_dir)))

    def _test_best_checkpoint(self) -> None:
        """Test the best checkpoint, without one the last one, and without any checkpoint the weights in memory."""
        best = Path(getattr(self.trainer.checkpoint_callback, "best_model_path", "") or "none")
        file = next((file for file in (best, self.keep.checkpoint) if file is not None and file.is_file()), None)
        if file != best:
            tested = file.name if file else "the weights in memory"
            self.print_lines(f"No best checkpoint was kept: the test uses {tested}")
        path = None if file is None else str(file)
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False)

    def after_validate(self) -> None:
        loss = self.trainer.callback_metrics.get("val/loss")
        count = len(self.datamodule.splits.val)
        self.print_lines(*describe_validation(None if loss is None else float(loss), count, self.model.decision))

    def after_test(self) -> None:
        self.print_lines(*describe_test(Path(self.trainer.default_root_dir)))

    def after_predict(self) -> None:
        predictions = self._get(self.config_init, "predictions")
        folder = self.datamodule.predict_path
        remarks = [] if folder is None else Images(folder).remarks()
        self.print_lines(*predictions.summary(), *(f"In {folder}: {remark}" for remark in remarks))
        if predictions.failed:
            sys.exit(1)

    def print_lines(self, *lines: str) -> None:
        """Print lines, in one process only."""
        if self.trainer.is_global_zero:
            print(*lines, sep="\n")


def main(arguments: list[str]) -> AnomalyCLI:
    """Run the command `sys.argv[1]`, with the words after it, and return it, with its trainer and model.

    The words are put into sys.argv, because the parser reads them there, and Lightning starts the processes of other
    GPUs with it.
    """
    arguments = expand_run(sys.argv[1], arguments)
    sys.argv[2:] = arguments
    check_config_files(arguments)
    return AnomalyCLI(
        Method,
        AnomalyDataModule,
        subclass_mode_model=True,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10},
        auto_configure_optimizers=False,
        parser_kwargs={"formatter_class": BriefHelp},
    )
