"""An exported detector in every format, for the tests of its runtimes."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from tests.deploy.test_export import export_every_format


@pytest.fixture(scope="session")
def files(small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """STFPM in every format and as a checkpoint, and an image beside them."""
    home = tmp_path_factory.mktemp("exported")
    method, exported = export_every_format(small_models, home)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(home / "model.ckpt")
    return {**exported, "checkpoint": home / "model.ckpt"}
