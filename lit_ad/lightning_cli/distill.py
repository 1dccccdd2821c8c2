"""`lit-ad distill`: train a small teacher from a larger network, in a run directory like that of `lit-ad fit`."""

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
    """Help without the subcommand fit, which LightningCLI needs and nobody types."""

    command = "lit-ad distill"


class _DistillCLI(AnomalyCLI):
    """The command line of distill. Its run directory is runs/distillation/TIME, unless the user gives another."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.add_run_arguments(parser)
        parser.add_lightning_class_args(DistilledWeights, "distilled")
        set_titles(parser)

    def after_fit(self) -> None:
        home, file = self.trainer.default_root_dir, f"{self.model.name}.safetensors"
        self.print_lines(
            f"This run is in {home}: config.yaml, checkpoints/best.ckpt and last.ckpt, {file}",
            f"Next: lit-ad fit --config efficient_ad_s --model.weights {home}/{file}",
        )


def main(arguments: list[str]) -> None:
    """Run the command with the words after `lit-ad distill`."""
    # sys.argv stays as it is, because Lightning starts the processes of other GPUs with it.
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
