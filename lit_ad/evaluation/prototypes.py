"""Pictures of an image's own prototypes, which explain the maps of INP-Former."""

from typing import Any

import lightning as L

from lit_ad.batch import Batch
from lit_ad.detector.painter import draw_labels
from lit_ad.errors import UserError, check_number
from lit_ad.evaluation.judged import content
from lit_ad.evaluation.picture_names import picture_names
from lit_ad.files import atomic_write, run_directory
from lit_ad.image.view import pad_to_content, visible_box
from lit_ad.names import printable


class PrototypePictures(L.Callback):
    """Writes RUN/prototypes/CATEGORY/FOLDER/NAME.png in a test: an image, and the nearest prototype of each patch.

    A model of INP-Former draws a few prototypes from every image. Patches of one colour are restored from the same
    prototype. A defect that resembles no prototype stands out in the map; a defect that resembles one is missed.
    Add it by `--trainer.callbacks+=lit_ad.evaluation.PrototypePictures`.

    Args:
        height: Height of the panels, in pixels.

    Raises:
        UserError: At the start of a test, if the method has no prototypes, or sees an image in tiles.
    """

    def __init__(self, height: int = 320) -> None:
        check_number("PrototypePictures.height", height, least=16, most=8192)
        self.height = height

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        method = type(pl_module).__name__
        if not hasattr(pl_module, "find_nearest_prototypes"):
            raise UserError(f"PrototypePictures shows prototypes of INPFormer, and {method} has none: leave it out")
        if pl_module.view.tile is not None:
            raise UserError("PrototypePictures shows whole images: leave it out, or leave out model.view.tile")
        self.folder = run_directory(trainer) / "prototypes"
        self.names = picture_names(trainer.test_dataloaders.dataset.samples)  # type: ignore[union-attr]

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for part in batch.same_size_parts():
            assert part.pixels is not None
            with trainer.precision_plugin.forward_context():
                patches = pl_module.find_nearest_prototypes(part.pixels).cpu().numpy()
            scale = part.canvas[0] // patches.shape[1]
            for i, sample in enumerate(part.samples):
                top, left, bottom, right = visible_box(part.boxes[i], part.input_size(i))
                labels = patches[i].repeat(scale, 0).repeat(scale, 1)[top:bottom, left:right]
                shown = pad_to_content(labels[..., None], part.boxes[i], 0)[..., 0]
                title = f"{printable(sample.image.name)}   {pl_module.hparams.prototypes} prototypes"
                picture = draw_labels(content(part, i), shown, pl_module.hparams.prototypes, title, self.height)
                with atomic_write(self.folder / f"{self.names[str(sample.image)]}.png") as temporary:
                    picture.save(temporary, format="PNG")
