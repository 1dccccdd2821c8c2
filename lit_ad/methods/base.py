"""The one class between a method and LightningModule.

The order of the class: the functions that a method writes; how they turn pixels into a judgement of each image;
Lightning's hooks; the checkpoint. Two modules help it: `methods/network.py` wraps a method as the network that
`detector.scoring.judge` takes, and `methods/detector_file.py` writes and reads a checkpoint's record of the detector.
"""

import copy
import math
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torchmetrics import MeanMetric

from lit_ad.batch import Batch, Others, Prediction
from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement, judge
from lit_ad.distributed import share_buffers
from lit_ad.errors import NOT_FINITE, UserError, check_number
from lit_ad.files import resolve_path
from lit_ad.image.view import View
from lit_ad.methods.batchnorm import SharedBatchNorm
from lit_ad.methods.detector_file import load_method, qualified_name, read_record, write_record
from lit_ad.methods.network import as_images, eval_mode, make_network, select_region, upsample_maps
from lit_ad.shared_mean import SharedMean
from lit_ad.teachers.backbone import Teacher
from lit_ad.version import __version__

Nominal = Iterable[tuple[Tensor, list[Tensor]]]  # images (B, 3, H, W) in [0, 1] and their features from `describe`


class Method(L.LightningModule):
    """A detector: a view of the image, frozen teachers, and students that learn to agree with them on nominal images.
    Where they disagree, the image is anomalous.

    A method writes `compare`, `loss`, `detect` and `configure_optimizers`; it assigns its teachers and students as
    attributes. Everything else has a default here.

    Args:
        view: How images become network inputs; `view.of_multiple(n)` if the networks need sides divisible by n.
    """

    logged = ("train/loss", "train/loss_step", "train/loss_epoch", "val/loss")  # names of values that training logs
    needs_pixels = True  # False: `compare` reads the features only, so that a cache of them replaces the images
    top = 0.0  # an image's score is the mean of its map's highest pixels: this fraction of all, but at least one
    clip: float | None = None  # the largest norm of a step's gradient; trainer.gradient_clip_val overrides it
    map_scored = True  # True: an image's score is computed from its map; False: `detect` returns its own scores
    teacher: Teacher  # the only or the first one; `teachers()` returns all
    decision: Decision | None = None  # thresholds from held-out nominal images; set by the Calibration callback
    decided_for: str | None = None  # fingerprint of the weights that scored those images; None: unknown

    def __init__(self, view: View) -> None:
        super().__init__()
        self.save_hyperparameters()  # the arguments of the method's class
        check_number("model.lr", self.hparams.get("lr", 1), least=0, above=True)
        self.view = view
        self.train_loss = SharedMean()
        self.val_loss = MeanMetric()  # Lightning's own mean over processes rounds the numbers of images

    # What a method writes.

    def describe(self, images: Tensor) -> list[Tensor]:
        """Run the frozen part: images (B, 3, H, W) in [0, 1] -> features (B, ...), which the feature cache holds."""
        features: list[Tensor] = self.teacher(images)
        return features

    def compare(self, images: Tensor, features: list[Tensor]) -> Any:
        """Run the trained part once, and return how the students disagree with the features from `describe`."""
        raise NotImplementedError

    def loss(self, disagreement: Any) -> Tensor:
        """Return the scalar that training minimises and validation logs."""
        raise NotImplementedError

    def detect(self, disagreement: Any) -> Prediction:
        """Return the map (B, 1, h, w) of each image, its score (B,), or both."""
        raise NotImplementedError

    # What a method overrides if its paper needs more.

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Return the score of each map, (B, 1, h, w) -> (B,): the mean of its highest pixels. `top` is the fraction of
        pixels that count; at least one counts."""
        values = anomaly_map.flatten(1)
        count = int(self.top * values.shape[1])
        return values.amax(dim=1) if count < 2 else values.topk(count, dim=1, sorted=False).values.mean(dim=1)

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the loss of a training step: a scalar. `others`: images that only some methods train on."""
        return self.loss(self.compare(images, features))

    def prepare(self, nominal: Nominal) -> None:
        """Before the first training step, compute statistics over the nominal training images, if training uses any."""

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Compute the statistics that scoring needs, before each validation.

        If a method uses `held_out`, the false-alarm rate of its decision is approximate, and the decision records that.
        With several processes, each one gets its share of the images and must merge its statistics with the others'
        (`statistics.Moments.reduce`).

        Args:
            nominal: The training images.
            held_out: The images held out of training. If there are none, as in the last training of decision.folds, the
                training images.
        """

    def exportable(self) -> tuple[Self, str]:
        """Return a copy that computes no gradients, and the reason if that copy loses the map; otherwise ""."""
        return copy.deepcopy(self), ""

    # What a method may call.

    def teachers(self) -> dict[str, Teacher]:
        """Return the frozen networks by the names of their attributes."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Teacher)}

    def total_steps(self, *, why: str) -> int:
        """Return the number of steps of the whole training, for `configure_optimizers`.

        Args:
            why: What needs the number, for the message: "learning rate falls until training ends".

        Raises:
            UserError: The trainer has no last step.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(f"{type(self).__name__}'s {why}: set trainer.max_steps or max_epochs")
        return int(steps)

    # From images to judgements. `detector.scoring` defines how maps and scores become the judgement of an image.

    def predict(self, images: Tensor, features: list[Tensor] | None = None) -> Prediction:
        """Return map and score of images (B, 3, H, W) in [0, 1]. If `features` are given, the frozen part does not
        run."""
        return self.detect(self.compare(images, self.describe(images) if features is None else features))

    def assess(self, images: Tensor, features: list[Tensor] | None = None) -> tuple[Prediction, Tensor]:
        """Return prediction and loss of held-out images (B, 3, H, W) from one comparison."""
        disagreement = self.compare(images, self.describe(images) if features is None else features)
        return self.detect(disagreement), self.loss(disagreement)

    def forward(self, pixels: Tensor) -> Prediction:
        """Return maps (B, 1, H, W) and scores (B,) of uint8 pixels (B, 3, H, W): the graph of an exported file.

        If the score comes from the map, padded pixels count, because padding differs from image to image, and a graph
        is fixed. Pixels outside the mask of a region of interest do not count: the mask is the same for every image.
        """
        with eval_mode(self):
            prediction = upsample_maps(self, self.predict(as_images(pixels)), pixels)
        if prediction.score is None:
            assert prediction.anomaly_map is not None, "a score, a map, or both"
            prediction = prediction._replace(score=self.score(select_region(prediction.anomaly_map, self.view)))
        return prediction

    def judge(self, batch: Batch, losses: list[tuple[Tensor, int]] | None = None) -> list[Judgement]:
        """Judge each image of a batch, which is on the model's device: see `detector.scoring.judge`.

        Args:
            batch: B images or tiles.
            losses: Receives the loss and the number of images of each call of the network. None: no loss is computed.
        """
        judgements: list[Judgement] = []
        for part in batch.same_size_parts():
            network = make_network(self, self._cached_features(part), losses)
            judgements += judge(network, part.pixels, part.boxes, self.card)
        return judgements

    def _cached_features(self, batch: Batch) -> list[Tensor] | None:
        """Return a batch's cached features, in the networks' precision: the cache may store half precision."""
        return None if batch.features is None else [level.to(self.dtype) for level in batch.features]

    @property
    def card(self) -> Card:
        """The record of this detector without its networks: view, decision, and how its maps are scored."""
        name = qualified_name(type(self))
        return Card(name, self.view, self.decision, self.top, self.map_scored, __version__)

    # Lightning's hooks.

    def configure_model(self) -> None:
        """Keep DDP from broadcasting the teachers; on several GPUs, let the students' BatchNorm see all batches."""
        trainer = self._trainer
        self._ddp_params_and_buffers_to_ignore = [
            f"{name}.{inner}"
            for name, teacher in self.teachers().items()
            for inner, _ in [*teacher.named_parameters(), *teacher.named_buffers()]
        ]
        if trainer is None or trainer.world_size == 1 or trainer.strategy.root_device.type != "cuda":
            return
        for name, students in self.named_children():
            if not isinstance(students, Teacher):
                setattr(self, name, convert_sync_batchnorm(students))

    def on_fit_start(self) -> None:
        """Drop the training loader that Lightning made early, to count the steps for `configure_optimizers`. Lightning
        then makes a new one, and restores the checkpoint's loader state into it."""
        self.trainer.fit_loop._combined_loader = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, clip, gradient_clip_algorithm)

    def on_validation_start(self) -> None:
        share_buffers(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = None if batch.pixels is None else as_images(batch.pixels)
        features = self._cached_features(batch)
        unrelated, corrupted = (None if p is None else as_images(p) for p in (batch.unrelated, batch.corrupted))
        others = Others(unrelated, corrupted, batch.corruption)
        alone = self.trainer.world_size == 1 or self.device.type == "cuda"
        with nullcontext() if alone else SharedBatchNorm():
            features = self.describe(images) if features is None else features  # type: ignore[arg-type]
            loss = self.training_loss(images, features, others)  # type: ignore[arg-type]  # None: see needs_pixels
        self.train_loss(loss.detach(), weight=len(batch))
        self.log("train/loss", self.train_loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Judgement]:  # type: ignore[override]
        losses: list[tuple[Tensor, int]] = []
        judgements = self.judge(batch, losses)
        count = sum(n for _, n in losses)
        loss = sum((loss * (n / count) for loss, n in losses), start=torch.zeros((), device=self.device))
        self.val_loss.update(loss, weight=len(batch))
        if not self.trainer.sanity_checking:  # the sanity check comes before the first `calibrate`
            refuse_not_finite(judgements, batch)
        return judgements

    def on_validation_epoch_end(self) -> None:
        """Log the loss here, and not in a step: a process without validation images runs no step."""
        if not len(self.trainer.val_dataloaders.dataset):  # type: ignore[union-attr]
            return  # no image is held out
        self.val_loss.update(0.0, weight=0.0)  # torchmetrics warns of a metric that was never updated
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=1)

    def test_step(self, batch: Batch, batch_idx: int) -> list[Judgement]:  # type: ignore[override]
        judgements = self.judge(batch)
        refuse_not_finite(judgements, batch)
        return judgements

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Judgement]:
        """As `test_step`, but a score that is not finite raises nothing: callbacks find the error in the sample."""
        judgements = self.judge(batch)
        for i, (sample, judgement) in enumerate(zip(batch.samples, judgements, strict=True)):
            if not judgement.finite and not sample.error:
                batch.samples[i] = sample._replace(error=NOT_FINITE)
        return judgements

    # A checkpoint is a detector: see `methods.detector_file`.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        write_record(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the decision. Raises UserError if the checkpoint is of another method, view or teacher."""
        read_record(self, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", weights: str | Path | None = None, **arguments: Any
    ) -> Self:
        """Return the detector in a checkpoint, in eval mode. `Method.load_from_checkpoint` works for every method,
        because the file names its class.

        Args:
            checkpoint_path: RUN/checkpoints/best.ckpt.
            map_location: The device.
            weights: The file of the teacher's weights, if it is neither where it was in training nor beside the
                checkpoint.
            **arguments: Arguments of the method that replace those of training.

        Raises:
            UserError: The file is no checkpoint, its method is not imported, the device does not exist, or the
                teacher's weights are missing or are not those of training.
        """
        if weights is not None:
            arguments["weights"] = str(weights)
        return load_method(cls, resolve_path(checkpoint_path), map_location, arguments)


def refuse_not_finite(judgements: list[Judgement], batch: Batch) -> None:
    """Raise NotFiniteError if a judgement has a NaN or infinite number. The message names the first such image."""
    for judgement, sample in zip(judgements, batch.samples, strict=True):
        judgement.refuse_not_finite(str(sample.image))
