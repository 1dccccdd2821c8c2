"""Write the result of a distillation, a file of weights."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file

from lit_ad.files import atomic_write, run_directory
from lit_ad.integrity import BLANK, DIGEST, seal
from lit_ad.training.nominal_images import nominal


class DistilledWeights(L.Callback):
    """Writes RUN/NETWORK.safetensors, for --model.weights, after every validation and at the end.

    Before the first step, it computes the network's statistics from the training images.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            pl_module.prepare(nominal(trainer, pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rank_zero_info(f"The network's weights are in {self.write(trainer, pl_module)}")

    def write(self, trainer: L.Trainer, pl_module: Any) -> Path:
        """Write the weights on the first process, and return their file."""
        path = run_directory(trainer) / f"{pl_module.name}.safetensors"
        if trainer.is_global_zero:
            tensors, about = pl_module.export_weights()
            with atomic_write(path) as temporary:
                save_file(tensors, temporary, {"format": "pt", DIGEST: BLANK, **about})
                seal(temporary)
        return path
