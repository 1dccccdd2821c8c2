"""Write RUN/config.yaml, the configuration of a run."""

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from lit_ad.detector.run_files import CONFIG
from lit_ad.evaluation.sinks.dashboard import show_config
from lit_ad.files import atomic_write
from lit_ad.names import map_texts, printable
from lit_ad.training.loggers import catch_errors


class SaveConfig(SaveConfigCallback):
    """Writes RUN/config.yaml: all settings that are needed to repeat the run, or to test its checkpoint from anywhere.

    A test in a directory of its own writes its own file. The file does not name the run's directory, because a run may
    be moved, and a repeated run gets a new directory.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        file = Path(trainer.default_root_dir) / CONFIG
        if stage not in ("fit", "test") or (stage == "test" and file.exists()):
            return
        config = self.config.clone()
        config.trainer.default_root_dir = config.checkpoint.dirpath = None
        del config["ckpt_path"]  # it would override one that is typed before --config
        if config.dashboards:
            config.trainer.logger = None  # the loggers are made again from these names
        with atomic_write(file) as temporary:
            temporary.write_text(text := self.parser.dump(config, skip_unset=False), encoding="utf-8")
        for logger in trainer.loggers if stage == "fit" else []:
            logger.log_hyperparams(map_texts(printable, yaml.safe_load(text)))
            catch_errors(logger, show_config)(logger, text)
