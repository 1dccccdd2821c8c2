"""The console scripts `lit-ad` and `lightning`."""

import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look at the network when it is imported
    try:
        from lit_ad.cli import AnomalyCLI, AnomalyDataModule, AnomalyModule, SaveConfig

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
        origin = traceback.extract_tb(error.__traceback__)[-1].filename
        if Path(__file__).parent not in Path(origin).parents:
            raise
        sys.exit(f"lit-ad: {error}")


if __name__ == "__main__":
    main()
