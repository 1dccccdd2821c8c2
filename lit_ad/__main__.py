"""The console scripts `lit-ad` and `lightning`."""

import os
import re
import sys
import traceback
import warnings
from pathlib import Path

OVERVIEW = """\
usage: lit-ad COMMAND --config FILE [--KEY VALUE ...]

  fit        train on nominal images, test the best checkpoint, write heatmaps
  validate   loss on held-out nominal images
  test       metrics and heatmaps of a checkpoint: --ckpt_path RUN/checkpoints/best.ckpt
  predict    scores, maps and heatmaps of unlabelled images: --data.predict_path FOLDER
  protocol   every class of a labelled data set in turn, and the table of them

Every key of a config file can be given on the command line, and --print_config shows them all with their values.
  lit-ad fit --config configs/stfpm.yaml --data.source.root PATH/TO/mvtec/bottle
  lit-ad fit --config ... --dashboards '[wandb, tensorboard]'
  lit-ad fit --help                     all keys
  lit-ad fit --model.help STFPM         the keys of a method
  lit-ad fit --data.source.help Folder  the keys of a source of images
"""


def main() -> None:
    if sys.argv[1:] in ([], ["-h"], ["--help"], ["help"]):
        return print(OVERVIEW)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look at the network when it is imported
    for expected in (
        "You have overridden `on_after_batch_transfer`",  # AnomalyModule normalises pixels there
        r"Found \d+ module\(s\) in eval mode",  # the frozen teacher
        "The number of training batches",
        "The '.*_dataloader' does not have many workers",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", expected)
    try:
        if sys.argv[1:2] == ["protocol"]:
            from lit_ad.protocol import main as protocol

            return protocol(sys.argv[2:])

        from lit_ad.cli import AnomalyCLI, SaveConfig
        from lit_ad.data import AnomalyDataModule
        from lit_ad.help import BriefHelp  # imports the methods, so that their short names are known
        from lit_ad.module import AnomalyModule

        AnomalyCLI(
            AnomalyModule,
            AnomalyDataModule,
            subclass_mode_model=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10},
            auto_configure_optimizers=False,
            parser_kwargs={"formatter_class": BriefHelp},
        )
    except (ValueError, RuntimeError, OSError) as error:
        # What lit_ad itself has to say is for the user, without the stack; anything else is a bug and keeps it.
        said = spoken(error)
        if said is None:
            raise
        sys.exit(f"lit-ad: {said}")


def spoken(error: BaseException | None) -> str | None:
    """What lit_ad said in its own words, behind the errors that led to, or in a worker process that loads images."""
    here = Path(__file__).parent
    while error is not None:
        if here in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents:
            return str(error)
        frames = re.findall(r'File "(.+)", line', str(error))  # a worker's traceback, as text
        if str(error).startswith("Caught ") and frames and here in Path(frames[-1]).parents:
            return re.split(r"\n\w+Error: ", str(error))[-1].strip()
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()
