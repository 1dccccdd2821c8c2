"""`lit-ad distill`: train a teacher from a larger one, in a run directory as `lit-ad fit` does."""

import warnings
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_ad.data import AnomalyDataModule
from lit_ad.lightning_cli.cli import AnomalyCLI
from lit_ad.lightning_cli.help import BriefHelp, set_titles
from lit_ad.lightning_cli.save_config import SaveConfig
from lit_ad.training import DistilledWeights
from lit_ad.training.distillation import Distillation


class _DistillHelp(BriefHelp):
    """LightningCLI has the subcommand fit, which nobody types here."""

    command = "lit-ad distill"


class _DistillCLI(AnomalyCLI):
    """Its run directory is runs/distillation/TIME, unless it is given."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.add_run_arguments(parser)
        parser.add_lightning_class_args(DistilledWeights, "distilled")
        set_titles(parser)

    def after_fit(self) -> None:
        home, file = self.trainer.default_root_dir, f"{self.model.name}.safetensors"
        self.say(
            f"This run is in {home}: config.yaml, checkpoints/best.ckpt and last.ckpt, {file}",
            f"Next: lit-ad fit --config efficient_ad_s --model.weights {home}/{file}",
        )


def main(arguments: list[str]) -> None:
    """Run the command, given what follows `lit-ad distill`."""
    # They are given as `args`, because a process that Lightning starts for another GPU is given this one's sys.argv.
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    options: dict[str, Any] = {"formatter_class": _DistillHelp}
    _DistillCLI(
        Distillation,
        AnomalyDataModule,
        subclass_mode_model=True,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10},
        auto_configure_optimizers=False,
        parser_kwargs=options,
        args=["fit", *arguments],
    )
