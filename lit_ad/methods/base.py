"""The one class between a method and LightningModule.

Read it top to bottom: what a method writes; what is made of that, from pixels to a judgement of each image; Lightning's
hooks, which call it; and the checkpoint, which is a detector. `methods/network.py` runs a method as the network that
`detector.scoring.judge` asks for, `methods/detector_file.py` has what is in a checkpoint.
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

Nominal = Iterable[tuple[Tensor, list[Tensor]]]  # images (B, 3, H, W) in [0, 1] and what `describe` says of them


class Method(L.LightningModule):
    """A detector: how it looks at an image, frozen teachers, students that agree with them on nominal images, and what
    is made of their disagreement.

    A method writes `compare`, `loss`, `detect` and `configure_optimizers`; it assigns its teachers and students as
    attributes. Everything else has a default here.

    Args:
        view: How images become network inputs, at the multiple of pixels that the method needs (`View.of_multiple`).
    """

    logged = ("train/loss", "train/loss_step", "train/loss_epoch", "val/loss")  # names of values that training logs
    needs_pixels = True  # whether `compare` looks at the images, or at the features alone
    top = 0.0  # the fraction of a map's pixels, the highest, whose mean is the image's score; 0: the maximum
    clip: float | None = None  # the largest norm of a step's gradient, unless trainer.gradient_clip_val says another
    map_scored = True  # whether an image's score is that of its map; False where `detect` gives scores beside maps
    teacher: Teacher  # where there is one; `teachers()` has all
    decision: Decision | None = None  # from nominal images held out of training; set by the Calibration callback
    decided_for: str | None = None  # the fingerprint of the weights that scored those images; None: not known

    def __init__(self, view: View) -> None:
        super().__init__()
        self.save_hyperparameters()  # the arguments of the method's class
        check_number("model.lr", self.hparams.get("lr", 1), least=0, above=True)
        self.view = view
        self.train_loss = SharedMean()
        self.val_loss = MeanMetric()  # Lightning's own mean over processes rounds the numbers of images

    # What a method writes.

    def describe(self, images: Tensor) -> list[Tensor]:
        """The frozen part, which the feature cache holds: images (B, 3, H, W) in [0, 1] -> (B, ...) each."""
        features: list[Tensor] = self.teacher(images)
        return features

    def compare(self, images: Tensor, features: list[Tensor]) -> Any:
        """The trained part, run once: what the students disagree in with `describe`'s features of the images."""
        raise NotImplementedError

    def loss(self, disagreement: Any) -> Tensor:
        """What training minimises, and validation measures: a scalar."""
        raise NotImplementedError

    def detect(self, disagreement: Any) -> Prediction:
        """Map and score of each image."""
        raise NotImplementedError

    # Where a paper needs more.

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Score of each image from its map, (B, 1, h, w) -> (B,): the mean of the highest `top`, one pixel at least."""
        values = anomaly_map.flatten(1)
        count = int(self.top * values.shape[1])
        return values.amax(dim=1) if count < 2 else values.topk(count, dim=1, sorted=False).values.mean(dim=1)

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The loss of a training step."""
        return self.loss(self.compare(images, features))

    def prepare(self, nominal: Nominal) -> None:
        """Statistics of the nominal training images that training stands on, before its first step."""

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Statistics that scoring stands on, of the training images and the held-out ones, before a validation.

        If a method looks at `held_out`, the false-alarm rate of its decision is approximate, and the decision says so.
        Where no image is held out, as in the last training of decision.folds, `held_out` are the training images.

        Of several processes, each sees its own share of both, and reduces what it found (`statistics.Moments`).
        """

    def exportable(self) -> tuple[Self, str]:
        """A copy that runtimes without gradients can run, and why it has no map where this one has."""
        return copy.deepcopy(self), ""

    # What a method may ask for.

    def teachers(self) -> dict[str, Teacher]:
        """The frozen networks, by the names of the attributes they are."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Teacher)}

    def total_steps(self, why: str) -> int:
        """The steps of the whole training, for `configure_optimizers`. Raises UserError, with what of the method needs
        them, if there is no end."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(f"{type(self).__name__}'s {why}: set trainer.max_steps or max_epochs")
        return int(steps)

    # From images to judgements. `detector.scoring` says what maps and scores mean for an image.

    def predict(self, images: Tensor, features: list[Tensor] | None = None) -> Prediction:
        """Map and score of images (B, 3, H, W) in [0, 1], whose features may be at hand."""
        return self.detect(self.compare(images, self.describe(images) if features is None else features))

    def assess(self, images: Tensor, features: list[Tensor] | None = None) -> tuple[Prediction, Tensor]:
        """Prediction and loss of held-out images from one comparison."""
        disagreement = self.compare(images, self.describe(images) if features is None else features)
        return self.detect(disagreement), self.loss(disagreement)

    def forward(self, pixels: Tensor) -> Prediction:
        """Return maps (B, 1, H, W) and scores (B,) of uint8 pixels (B, 3, H, W): the graph of an exported file.

        Scores of maps count padding, too, which lies elsewhere in each image. They leave out what the mask of a region
        of interest leaves out: it has one size, and so one place in the input.
        """
        with eval_mode(self):
            prediction = upsample_maps(self, self.predict(as_images(pixels)), pixels)
        if prediction.score is None:
            assert prediction.anomaly_map is not None, "a score, a map, or both"
            prediction = prediction._replace(score=self.score(select_region(prediction.anomaly_map, self.view)))
        return prediction

    def judge(self, batch: Batch, losses: list[tuple[Tensor, int]] | None = None) -> list[Judgement]:
        """Judge the images of a batch that is on the device, each for itself: see `detector.scoring.judge`."""
        judgements: list[Judgement] = []
        for part in batch.uniform():
            network = make_network(self, self._cached_features(part), losses)
            judgements += judge(network, part.pixels, part.boxes, self.card)
        return judgements

    def _cached_features(self, batch: Batch) -> list[Tensor] | None:
        """Return a batch's cached features, which may be stored in half precision, in the networks' own."""
        return None if batch.features is None else [level.to(self.dtype) for level in batch.features]

    @property
    def card(self) -> Card:
        """What this detector is beside its networks."""
        name = qualified_name(type(self))
        return Card(name, self.view, self.decision, self.top, self.map_scored, __version__)

    # Lightning's hooks.

    def configure_model(self) -> None:
        """DDP never broadcasts a teacher; on several GPUs, the students' BatchNorm sees the batches of all of them."""
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
        """Drop the training loader that Lightning made early, to count the steps for `configure_optimizers`. It makes
        another one, and loads the loader's state in a checkpoint into that."""
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
        if not self.trainer.sanity_checking:  # which comes before the first `calibrate`
            refuse_not_finite(judgements, batch)
        return judgements

    def on_validation_epoch_end(self) -> None:
        """Log the loss: here, where a process without validation images is, too."""
        if not len(self.trainer.val_dataloaders.dataset):  # type: ignore[union-attr]
            return  # no image is held out
        self.val_loss.update(0.0, weight=0.0)  # or torchmetrics warns of such a process
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=1)

    def test_step(self, batch: Batch, batch_idx: int) -> list[Judgement]:  # type: ignore[override]
        judgements = self.judge(batch)
        refuse_not_finite(judgements, batch)
        return judgements

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Judgement]:
        """As `test_step`, but an error is written to the image's sample in the batch, where callbacks read it."""
        judgements = self.judge(batch)
        for i, (sample, judgement) in enumerate(zip(batch.samples, judgements, strict=True)):
            if not judgement.finite and not sample.error:
                batch.samples[i] = sample._replace(error=NOT_FINITE)
        return judgements

    # A checkpoint is a detector: see `methods.detector_file`.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        write_record(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint is another method's, of other teachers, or of another view."""
        read_record(self, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", weights: str | Path | None = None, **arguments: Any
    ) -> Self:
        """The detector in a checkpoint, in eval mode; also on `Method` itself, since the file names its class.

        Args:
            checkpoint_path: RUN/checkpoints/best.ckpt.
            map_location: The device.
            weights: The teacher's, if they are no longer where they were, nor beside the checkpoint.
            **arguments: Of the method, in place of those it was trained with.

        Raises:
            UserError: No checkpoint, a method that is not known, no such device, or a teacher whose weights are not to
                be found or are others than in training.
        """
        if weights is not None:
            arguments["weights"] = str(weights)
        return load_method(cls, resolve_path(checkpoint_path), map_location, arguments)


def refuse_not_finite(judgements: list[Judgement], batch: Batch) -> None:
    """Raise NotFiniteError that names the first image of a batch of which a number is NaN or infinite."""
    for judgement, sample in zip(judgements, batch.samples, strict=True):
        judgement.refuse_not_finite(str(sample.image))
