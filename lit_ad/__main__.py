"""The console scripts `lit-ad` and `lightning`."""

import os
import sys
import traceback
import warnings
from pathlib import Path


def main() -> None:
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
        from lit_ad.module import AnomalyModule

        AnomalyCLI(
            AnomalyModule,
            AnomalyDataModule,
            subclass_mode_model=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10},
        )
    except (ValueError, RuntimeError, OSError) as error:
        # What lit_ad itself has to say is for the user, without the stack; anything else is a bug and keeps it.
        said = spoken(error)
        if said is None:
            raise
        sys.exit(f"lit-ad: {said}")


def spoken(error: BaseException | None) -> BaseException | None:
    """The error that lit_ad raised in its own words, behind those it led to."""
    while error is not None:
        if Path(__file__).parent in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents:
            return error
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()
