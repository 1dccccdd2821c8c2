"""`lit-ad fit | validate | test | predict --config FILE`: LightningCLI with a run directory."""

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, Namespace, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad.callbacks import Calibration, Dashboard, Evaluation, FeatureCache, Heatmaps, Predictions
from lit_ad.checkpoint import CheckpointFile
from lit_ad.data import AnomalyDataModule
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.methods.base import Method
from lit_ad.run.help import BriefHelp
from lit_ad.run.loggers import Dashboards, by_name, forgiving
from lit_ad.run.signals import Interruption


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
                temporary.write_text(text := self.parser.dump(config, skip_none=False))
            for logger in trainer.loggers:
                logger.log_hyperparams(yaml.safe_load(text))


class AnomalyCLI(LightningCLI):
    """A run lives in trainer.default_root_dir: given, or that of the checkpoint, or runs/METHOD/TIME."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # The model says how images are looked at; the data hears of it when both are made.
        parser.link_arguments("model.view", "data.view", apply_on="instantiate")
        parser.add_lightning_class_args(FeatureCache, "cache")
        parser.add_lightning_class_args(Calibration, "decision")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Heatmaps, "heatmaps")
        parser.add_lightning_class_args(Predictions, "predictions")
        parser.add_lightning_class_args(Dashboard, "dashboard")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/loss", "checkpoint.filename": "best"})
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.enable_version_counter": False})
        parser.add_argument("--dashboards", type=Dashboards, default=[], help="wandb, tensorboard, or both.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the best checkpoint once trained.")

    def _parse_ckpt_path(self) -> None:
        """Lightning would put the checkpoint's hyperparameters over what the user typed; config.yaml has them."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        absolute(config)
        if self.subcommand != "fit" and not config.ckpt_path:
            raise UserError(
                f"{self.subcommand} needs a trained model: give --ckpt_path, such as RUN/checkpoints/best.ckpt"
            )
        checkpoint = Path(config.ckpt_path or "")
        home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
        method = config.model.class_path.rsplit(".", 1)[-1].lower()
        home = config.trainer.default_root_dir or home or Path("runs", method, time.strftime("%Y%m%d-%H%M%S"))
        config.trainer.default_root_dir = os.path.abspath(home)
        if config.dashboards:
            if config.trainer.logger not in (None, True):
                raise UserError("give dashboards, which are loggers by name, or trainer.logger, not both")
            run = Path(config.trainer.default_root_dir)
            config.trainer.logger = [by_name(name, run) for name in config.dashboards]
        config.weights_only = True  # as CheckpointFile has it anyway
        if "verbose" in config:
            config.verbose = False  # Evaluation prints a shorter table
        config.checkpoint.dirpath = config.checkpoint.dirpath or f"{config.trainer.default_root_dir}/checkpoints"

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException:
            sys.exit(143)  # Lightning would leave with 0, which a scheduler takes for a finished run

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_memory()
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of the user's
            self.trainer.strategy.checkpoint_io = CheckpointFile()
        self.trainer.loggers = forgiving(self.trainer.loggers)
        last = Path(self.config[self.subcommand].checkpoint.dirpath) / "last.ckpt"
        self.trainer.callbacks.append(Interruption(last))  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        config = self.config.fit
        tested = config.test_after_fit and self.datamodule.listed["test"] and not config.trainer.fast_dev_run
        if tested and self.trainer.state.finished:
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None  # no epoch was validated
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        home = self.trainer.default_root_dir
        self.say(
            f"This run is in {home}: config.yaml, checkpoints/best.ckpt and last.ckpt, metrics.json, heatmaps/",
            f"Next: lit-ad predict --config {home}/config.yaml --ckpt_path {home}/checkpoints/best.ckpt "
            "--data.predict_path FOLDER",
        )

    def after_test(self) -> None:
        self.say(f"metrics.json and heatmaps/ are in {self.trainer.default_root_dir}")

    def after_predict(self) -> None:
        self.say(f"scores.csv, maps/ and heatmaps/ are in {self.trainer.default_root_dir}/predictions")

    def say(self, *lines: str) -> None:
        if self.trainer.is_global_zero:
            print("", *lines, sep="\n")


def main() -> None:
    """The commands of Lightning."""
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


def keep_memory() -> None:
    """Have glibc reuse what a step frees. It returns large tensors to Linux, which then hands them out page by page,
    filled with zeros: on a CPU a sixth of a training step, a quarter of MKD's maps."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def absolute(config: Any) -> None:
    """Make the paths in a configuration absolute, so that it serves from any directory."""
    items = vars(config).items() if isinstance(config, Namespace) else config.items()
    for key, value in list(items):
        if isinstance(value, Namespace | dict):
            absolute(value)
        elif isinstance(value, Path) or (key == "weights" and isinstance(value, str) and Path(value).is_file()):
            config[key] = type(value)(os.path.abspath(Path(value).expanduser()))
        elif isinstance(value, list):
            config[key] = [
                Path(os.path.abspath(item.expanduser())) if isinstance(item, Path) else item for item in value
            ]
