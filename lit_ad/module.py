"""The one base class between a method and LightningModule."""

import ctypes
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import lightning as L
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torchmetrics import MeanMetric

from lit_ad.batch import Batch, Prediction
from lit_ad.batchnorm import SharedBatchNorm
from lit_ad.maps import crop, upsample
from lit_ad.teachers.backbone import Teacher
from lit_ad.teachers.cache import cached, default_directory
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
        self.val_loss = MeanMetric()  # Lightning's own mean over processes rounds the numbers of images
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

    def configure_model(self) -> None:
        """On several GPUs, BatchNorm sees the batches of all of them."""
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1 or trainer.strategy.root_device.type != "cuda":
            return
        for name, students in self.named_children():
            if students is not self.teacher:
                setattr(self, name, convert_sync_batchnorm(students))

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            keep_memory()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        alone = self.trainer.world_size == 1 or self.device.type == "cuda"
        with nullcontext() if alone else SharedBatchNorm():
            loss = self._loss(batch)
        count = len(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, sync_dist=True, batch_size=count)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction | None:  # type: ignore[override]
        losses: list[tuple[Tensor, int]] = []
        prediction = self.predict_batch(batch, losses) if len(batch) else None
        count = sum(n for _, n in losses)
        loss = sum((loss * (n / count) for loss, n in losses), start=torch.zeros((), device=self.device))
        self.val_loss.update(loss, weight=len(batch))  # 0 of a batch that held repeats only
        self.log("val/loss", self.val_loss, prog_bar=True, on_epoch=True, batch_size=len(batch))
        return prediction

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction | None:  # type: ignore[override]
        return self.predict_batch(batch) if len(batch) else None

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        return self.predict_batch(batch) if len(batch) else None

    def predict_batch(self, batch: Batch, losses: list[tuple[Tensor, int]] | None = None) -> Prediction:
        """Prediction of a batch that is on the device, by tiles where it says so, padding never scored.

        Given a list, it also gets the loss and the number of images, or those of each micro-batch of tiles.
        """
        assert batch.image is not None
        if batch.tiling is not None:
            return self._predict_tiled(batch, losses)
        prediction = self._predict(batch.image, batch.features, losses)
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

    def _predict(
        self, images: Tensor, features: list[Tensor] | None, losses: list[tuple[Tensor, int]] | None
    ) -> Prediction:
        """Of normalised images (B, 3, H, W), and their loss if it is asked for; the teacher runs once."""
        if losses is not None:
            features = self.teacher(images) if features is None else features
            losses.append((self.loss(images, features), len(images)))
        return self(images) if features is None else self.detect(images, features)

    def _tiles(self, image: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Micro-batches of normalised tiles of one image, (3, H, W) -> (n, 3, tile, tile) each."""
        assert batch.tiling is not None
        grid = Grid((image.shape[-2], image.shape[-1]), batch.tiling.size, batch.tiling.overlap)
        for tiles in grid.batches(image, batch.tiling.batch):
            yield self.teacher.normalize(tiles)

    def _predict_tiled(self, batch: Batch, losses: list[tuple[Tensor, int]] | None) -> Prediction:
        """uint8 images (B, 3, H, W) -> maps (B, 1, H, W), each stitched from its tiles' and scored as a whole."""
        assert batch.image is not None
        predictions = []
        for image, (top, left, bottom, right) in zip(batch.image, batch.box, strict=True):
            prediction = self._predict_tiles(image[:, top:bottom, left:right], batch, losses)
            canvas = image.shape[-2:]
            if prediction.anomaly_map is not None and prediction.anomaly_map.shape[-2:] != canvas:
                whole = prediction.anomaly_map.new_zeros(1, 1, *canvas)  # padding has a map of zeros
                whole[:, :, top:bottom, left:right] = prediction.anomaly_map
                prediction = replace(prediction, anomaly_map=whole)
            predictions.append(prediction)
        if len(predictions) == 1:  # a map may be large: no copy
            return predictions[0]
        maps = [p.anomaly_map for p in predictions if p.anomaly_map is not None]
        parts = {
            name: torch.cat([p.parts[name] for p in predictions if p.parts]) for name in predictions[0].parts or {}
        }
        return Prediction(torch.cat(maps) if maps else None, torch.cat([p.score for p in predictions]), parts or None)

    def _predict_tiles(self, image: Tensor, batch: Batch, losses: list[tuple[Tensor, int]] | None) -> Prediction:
        """(3, H, W) uint8 -> map (1, 1, H, W), or none of an image-level method, score and parts (1,)."""
        assert batch.tiling is not None
        grid = Grid((image.shape[-2], image.shape[-1]), batch.tiling.size, batch.tiling.overlap)
        worst: dict[str, Tensor] = {}

        def predictions() -> Iterator[Prediction]:
            for tiles in self._tiles(image, batch):
                prediction = self._predict(tiles, None, losses)
                for name, scores in {"score": prediction.score, **(prediction.parts or {})}.items():
                    worst[name] = torch.maximum(worst.get(name, scores.amax()), scores.amax())
                yield prediction

        found = predictions()
        first = next(found)
        if first.anomaly_map is None:
            stitched = None
            deque(found, maxlen=0)  # for their scores
        else:
            side = (grid.tile, grid.tile)
            stitched = grid.stitch(upsample(p.anomaly_map, side) for p in chain([first], found))  # type: ignore[arg-type]
        parts = {name: score[None] for name, score in worst.items()}
        score = parts.pop("score")
        if stitched is not None and self.scores_map:
            score = self.score(stitched)
        return Prediction(stitched, score, parts or None)

    def on_fit_start(self) -> None:
        """Where data.cache_features is set, have the teacher's features of training and validation images on disk."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not getattr(data, "cache_features", False) or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        teacher = self.teacher
        made_by = {
            "teacher": teacher.identity,
            "pixels": [teacher.mean, teacher.std],
            "precision": str(self.trainer.precision),
        }
        for split, loader, about in data.cacheable():
            if split == "val" and not self.trainer.enable_validation:
                continue
            features = cached(
                data.cache_dir or default_directory(),
                {**made_by, **about},
                len(loader.dataset),
                data.cache_dtype,
                partial(self._teach, loader),
                f"Teacher features, {split}",
            )
            data.serve_features(split, features)

    def _teach(self, loader: Iterable[Batch]) -> Iterator[list[Tensor]]:
        """The teacher's features of every batch."""
        for batch in loader:
            moved = self.trainer.strategy.batch_to_device(batch)
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                yield self.teacher(moved.image)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise pixels for the teacher, and drop the repeats that a distributed sampler pads with."""
        if not isinstance(batch, Batch):
            return batch
        trainer = self._trainer
        if trainer is not None and not trainer.training and trainer.world_size > 1:
            batch = batch.select([i % trainer.world_size == trainer.global_rank for i in batch.index.tolist()])
        if batch.image is not None and batch.image.dtype == torch.uint8 and batch.tiling is None and len(batch):
            batch = replace(batch, image=self.teacher.normalize(batch.image))
        if batch.features is not None:
            batch = replace(batch, features=[level.to(self.teacher.pixel_mean.dtype) for level in batch.features])
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


def keep_memory() -> None:
    """Have glibc reuse what a step frees. It returns large tensors to Linux, which then hands them out page by page,
    filled with zeros: on a CPU a sixth of a training step, a quarter of MKD's maps."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)
