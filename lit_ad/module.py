"""The one base class between a method and LightningModule."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.maps import crop, upsample
from lit_ad.teachers.backbone import Teacher
from lit_ad.tiling import Grid


class AnomalyModule(L.LightningModule):
    """A frozen teacher, and students that learn to agree with it on nominal images.

    A method implements `loss`, `detect` and `configure_optimizers`, and `score` if an image's score is not the maximum
    of its map. Steps, tiles, padding, normalisation of pixels and the teacher's care are done here.

    `threshold` (of the image score) and `map_range` (the colours of heatmaps) come from nominal validation images; they
    are buffers, so that a checkpoint is enough. NaN until an Evaluation callback has set them.
    """

    uses_pixels = True  # whether `loss` looks at the images, or at the teacher's features alone
    scores_map = True  # whether an image's score is `score` of its map, or what `detect` says (of tiles: the worst one)
    threshold: Tensor
    map_range: Tensor

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["teacher"])  # the method's arguments: load_from_checkpoint needs no more
        self.teacher = teacher
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("map_range", torch.full((2,), torch.nan))
        # DDP broadcasts every buffer at every step; the teacher's never change.
        self._ddp_params_and_buffers_to_ignore = [
            f"teacher.{name}" for name, _ in [*teacher.named_parameters(), *teacher.named_buffers()]
        ]

    # What a method writes.

    def loss(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """What training minimises: normalised images (B, 3, H, W) and the teacher's features of them -> scalar."""
        raise NotImplementedError

    def detect(self, images: Tensor, features: list[Tensor]) -> Prediction:
        """Map and score of normalised images (B, 3, H, W), given the teacher's features of them."""
        raise NotImplementedError

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Score of each image from its map, (B, 1, h, w) -> (B,). The maximum, unless a method says otherwise."""
        return anomaly_map.flatten(1).amax(dim=1)

    # What every method gets.

    @property
    def patch_size(self) -> int:
        """Images must have sides that are multiples of this."""
        return self.teacher.patch_size

    def forward(self, images: Tensor) -> Prediction:
        """Normalised images (B, 3, H, W) -> Prediction."""
        return self.detect(images, self.teacher(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction | None:  # type: ignore[override]
        if len(batch) == 0:
            return None
        loss = self._loss(batch) if batch.tiling is None else self._loss_of_tiles(batch)
        self.log("val/loss", loss, prog_bar=True, on_epoch=True, sync_dist=True, batch_size=len(batch))
        return self.predict_batch(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction | None:  # type: ignore[override]
        return self.predict_batch(batch) if len(batch) else None

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        return self.predict_batch(batch) if len(batch) else None

    def predict_batch(self, batch: Batch) -> Prediction:
        """Prediction of a batch that is on the device, by tiles where it says so, padding never scored."""
        assert batch.image is not None
        if batch.tiling is not None:
            predictions = [self._predict_tiles(image, batch) for image in batch.image]
            maps = [p.anomaly_map for p in predictions if p.anomaly_map is not None]
            prediction = Prediction(torch.cat(maps) if maps else None, torch.cat([p.score for p in predictions]))
        else:
            prediction = self(batch.image) if batch.features is None else self.detect(batch.image, batch.features)
        canvas = (batch.image.shape[-2], batch.image.shape[-1])
        padded = any(box != (0, 0, *canvas) for box in batch.box)
        if prediction.anomaly_map is not None and padded and self.scores_map:
            contents = [crop(m[None], canvas, box) for m, box in zip(prediction.anomaly_map, batch.box, strict=True)]
            prediction = replace(prediction, score=torch.cat([self.score(content) for content in contents]))
        return prediction

    def nominal(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Every nominal training image once, as `loss` gets it but without augmentation: this process's share.

        For statistics that are fitted, not learned; before a validation, say. Obeys trainer.limit_train_batches.
        """
        trainer = self.trainer
        limited = isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches < 1
        loader = trainer.datamodule.nominal_dataloader()  # type: ignore[attr-defined]
        for batch in islice(loader, int(trainer.num_training_batches) if limited else None):
            batch = trainer.strategy.batch_to_device(batch)
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                if batch.tiling is not None:
                    for image in batch.image:
                        for tiles in self._tiles(image, batch):
                            yield tiles, self.teacher(tiles)
                elif len(batch):
                    yield batch.image, self.teacher(batch.image) if batch.features is None else batch.features

    def _loss(self, batch: Batch) -> Tensor:
        features = self.teacher(batch.image) if batch.features is None else batch.features
        return self.loss(batch.image, features)  # type: ignore[arg-type]  # None only where uses_pixels is False

    def _loss_of_tiles(self, batch: Batch) -> Tensor:
        """Mean over all tiles of all images."""
        assert batch.image is not None
        total, count = torch.zeros((), device=self.device), 0
        for image in batch.image:
            for tiles in self._tiles(image, batch):
                total, count = total + self.loss(tiles, self.teacher(tiles)) * len(tiles), count + len(tiles)
        return total / count

    def _tiles(self, image: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Micro-batches of normalised tiles of one image, (3, H, W) -> (n, 3, tile, tile) each."""
        assert batch.tiling is not None
        grid = Grid((image.shape[-2], image.shape[-1]), batch.tiling.size, batch.tiling.overlap)
        for tiles in grid.batches(image, batch.tiling.batch):
            yield self.teacher.normalize(tiles)

    def _predict_tiles(self, image: Tensor, batch: Batch) -> Prediction:
        """(3, H, W) uint8 -> map (1, 1, H, W) stitched from the tiles' maps, scored as a whole."""
        assert batch.tiling is not None
        grid = Grid((image.shape[-2], image.shape[-1]), batch.tiling.size, batch.tiling.overlap)
        side = (grid.tile, grid.tile)
        predictions = (self(tiles) for tiles in self._tiles(image, batch))
        first = next(predictions)
        if first.anomaly_map is None:  # an image-level method: the worst tile speaks for the image
            return Prediction(
                None, torch.stack([first.score.amax(), *(p.score.amax() for p in predictions)]).amax()[None]
            )

        worst = [first.score.amax()]

        def maps() -> Iterator[Tensor]:
            yield upsample(first.anomaly_map, side)
            for prediction in predictions:
                worst.append(prediction.score.amax())
                yield upsample(prediction.anomaly_map, side)

        stitched = grid.stitch(maps())
        return Prediction(stitched, self.score(stitched) if self.scores_map else torch.stack(worst).amax()[None])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise pixels for the teacher, and drop the repeats that a distributed sampler pads with."""
        if not isinstance(batch, Batch):
            return batch
        trainer = self._trainer
        if trainer is not None and not trainer.training and trainer.world_size > 1:
            batch = batch.select([i % trainer.world_size == trainer.global_rank for i in batch.index.tolist()])
        if batch.image is not None and batch.image.dtype == torch.uint8 and batch.tiling is None and len(batch):
            batch = replace(batch, image=self.teacher.normalize(batch.image))
        return batch

    # The teacher's weights stay out of the checkpoint; their fingerprint goes in.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["teacher"] = {"name": self.teacher.name, "fingerprint": self.teacher.fingerprint}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint was trained under another teacher."""
        trained = checkpoint.get("teacher", {})
        if trained.get("fingerprint") != self.teacher.fingerprint:
            raise ValueError(
                f"this checkpoint was trained with the teacher {trained.get('name')} (weights "
                f"{trained.get('fingerprint')}), "
                f"but the model has {self.teacher.name} (weights {self.teacher.fingerprint}): give it the same "
                f"backbone and weights as in training"
            )
