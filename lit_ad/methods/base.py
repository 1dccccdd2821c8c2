"""The one class between a method and LightningModule."""

import copy
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_ad import __version__
from lit_ad.batch import Batch, Prediction
from lit_ad.checkpoint import changed_arguments, read_checkpoint
from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement, Network, Output, judge
from lit_ad.distributed import SharedMean, share_buffers
from lit_ad.errors import NOT_FINITE, UserError
from lit_ad.files import resolve_path
from lit_ad.image.view import Floats, View, visible
from lit_ad.machine import torch_device
from lit_ad.methods.batchnorm import SharedBatchNorm
from lit_ad.methods.maps import upsample
from lit_ad.teachers.backbone import Teacher
from lit_ad.teachers.weights import fingerprint

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
    map_scored = True  # whether an image's score is that of its map; False where `detect` gives scores beside maps
    teacher: Teacher  # where there is one; `teachers()` has all
    decision: Decision | None = None  # from nominal images held out of training; set by the Calibration callback
    decided_for: str | None = None  # the fingerprint of the weights that scored those images; None: not known

    def __init__(self, view: View) -> None:
        super().__init__()
        self.save_hyperparameters()  # the arguments of the method's class
        if self.hparams.get("lr", 1) <= 0:
            raise UserError(f"model.lr is {self.hparams['lr']}, but it must be above 0")
        self.view = view
        self.train_loss = SharedMean()
        self.val_loss = MeanMetric()  # Lightning's own mean over processes rounds the numbers of images

    # What a method writes.

    def describe(self, images: Tensor) -> list[Tensor]:
        """The frozen part, which the feature cache holds: images (B, 3, H, W) in [0, 1] -> (B, ...) each."""
        return self.teacher(images)

    def compare(self, images: Tensor, features: list[Tensor]) -> Any:
        """The trained part, run once: what the students disagree in with `describe`'s features of the images."""
        raise NotImplementedError

    def loss(self, disagreement: Any) -> Tensor:
        """What training minimises, and validation measures: a scalar."""
        raise NotImplementedError

    def detect(self, disagreement: Any) -> Prediction:
        """Map and score of each image."""
        raise NotImplementedError

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Score of each image from its map, (B, 1, h, w) -> (B,): the mean of the highest `top`, one pixel at least."""
        values = anomaly_map.flatten(1)
        count = int(self.top * values.shape[1])
        return values.amax(dim=1) if count < 2 else values.topk(count, dim=1, sorted=False).values.mean(dim=1)

    def predict(self, images: Tensor, features: list[Tensor] | None = None) -> Prediction:
        """Map and score of images (B, 3, H, W) in [0, 1], whose features may be at hand."""
        return self.detect(self.compare(images, self.describe(images) if features is None else features))

    def assess(self, images: Tensor, features: list[Tensor] | None = None) -> tuple[Prediction, Tensor]:
        """Prediction and loss of held-out images from one comparison."""
        disagreement = self.compare(images, self.describe(images) if features is None else features)
        return self.detect(disagreement), self.loss(disagreement)

    def training_loss(self, images: Tensor, features: list[Tensor], unrelated: Tensor | None) -> Tensor:
        """The loss of a training step. `unrelated`: other images (B, 3, H, W) in [0, 1], if the data has any."""
        return self.loss(self.compare(images, features))

    def prepare(self, nominal: Nominal) -> None:
        """Statistics of the nominal training images that training stands on, before its first step."""

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Statistics that scoring stands on, of the training images and the held-out ones, before a validation.

        If a method looks at `held_out`, the false-alarm rate of its decision is approximate, and the decision says so.

        Of several processes, each sees its own share of both, and reduces what it found (`statistics.Moments`).
        """

    def exportable(self) -> tuple[Self, str]:
        """A copy that runtimes without gradients can run, and why it has no map where this one has."""
        return copy.deepcopy(self), ""

    # From pixels to maps and scores. What they mean for an image is `detector.scoring`'s to say.

    def forward(self, pixels: Tensor) -> Prediction:
        """Return maps (B, 1, H, W) and scores (B,) of uint8 pixels (B, 3, H, W): the graph of an exported file.

        Scores of maps count padding, too, which lies elsewhere in each image. They leave out what the mask of a region
        of interest leaves out: it has one size, and so one place in the input.
        """
        with evaluating(self):
            prediction = self._at_input_size(self.predict(as_images(pixels)), pixels)
        if prediction.score is None:
            assert prediction.anomaly_map is not None, "a score, a map, or both"
            prediction = prediction._replace(score=self.score(self._masked(prediction.anomaly_map)))
        return prediction

    def _masked(self, maps: Tensor) -> Tensor:
        """Return what the mask of a region of interest leaves of maps (B, 1, H, W): (B, 1, 1, n), or all of them."""
        region = self.view.region
        if self.view.tile is not None or region is None or region.inside is None:
            return maps
        canvas, box = (maps.shape[-2], maps.shape[-1]), self.view(self.view.blank())[1]
        top, left, bottom, right = visible(box, canvas)
        inside = self.view.inside(canvas, box)
        assert inside is not None
        places = torch.tensor(np.flatnonzero(inside).tolist(), device=maps.device)
        return maps[..., top:bottom, left:right].flatten(2).index_select(2, places)[:, :, None]

    def network(self, features: list[Tensor] | None = None, losses: list[tuple[Tensor, int]] | None = None) -> Network:
        """Return this method as the network that `judge` runs, in eval mode.

        Args:
            features: Of the images it will be given, if they are at hand: (B, ...) each.
            losses: Gets the loss of each call, and its number of images.
        """

        def run(pixels: Any) -> Output:
            images = as_images(torch.as_tensor(pixels).to(self.device))
            with evaluating(self):
                if losses is None:
                    prediction = self.predict(images, features)
                else:
                    prediction, loss = self.assess(images, features)
                    losses.append((loss, len(images)))
                maps, score, parts = self._at_input_size(prediction, images)
            if score is not None and score.shape != (len(images),):
                shape = f"{tuple(score.shape)} for {len(images)} images"
                raise ValueError(f"{type(self).__name__} gave scores of shape {shape}: it must be one for each")
            arrays = {name: as_array(part) for name, part in parts.items()}
            return Output(None if maps is None else as_array(maps), None if score is None else as_array(score), arrays)

        return run

    def judge(self, batch: Batch, losses: list[tuple[Tensor, int]] | None = None) -> list[Judgement]:
        """Judge the images of a batch that is on the device, each for itself: see `detector.scoring.judge`."""
        judgements: list[Judgement] = []
        for part in batch.uniform():
            network = self.network(self._of_cache(part), losses)
            judgements += judge(network, part.pixels, part.boxes, self.card)
        return judgements

    @property
    def card(self) -> Card:
        """What this detector is beside its networks."""
        name = qualified_name(type(self))
        return Card(name, self.view, self.decision, self.top, self.map_scored, __version__)

    def _at_input_size(self, prediction: Prediction, inputs: Tensor) -> Prediction:
        """Bring maps to the size of the network's inputs (B, 3, H, W), where most papers score them.

        The maximum of the small map is about 10 % higher. The authors of EfficientAD and Dinomaly score at other sizes:
        the docstrings of these methods say what that changes.
        """
        if prediction.anomaly_map is None:
            return prediction
        if self.map_scored != (prediction.score is None):
            raise ValueError(
                f"{type(self).__name__}.map_scored is {self.map_scored}, but `detect` returns "
                f"{'no score' if prediction.score is None else 'a score'}: map_scored says whether the map is scored"
            )
        return prediction._replace(anomaly_map=upsample(prediction.anomaly_map, (inputs.shape[-2], inputs.shape[-1])))

    def teachers(self) -> dict[str, Teacher]:
        """The frozen networks, by the names of the attributes they are."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Teacher)}

    def _of_cache(self, batch: Batch) -> list[Tensor] | None:
        """A batch's cached features, which may be stored in half precision, in the networks' own."""
        return None if batch.features is None else [level.to(self.dtype) for level in batch.features]

    def total_steps(self, why: str) -> int:
        """The steps of the whole training, for `configure_optimizers`. Raises UserError, with why they are needed, if
        there is no end."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(f"{type(self).__name__}'s learning rate {why}: set trainer.max_steps or max_epochs")
        return int(steps)

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
        """Where `configure_optimizers` asked for the number of steps, Lightning has made the training loader to count
        them. It makes another one when training begins: of that one it loads the state that a checkpoint has."""
        self.trainer.fit_loop._combined_loader = None

    def on_validation_start(self) -> None:
        share_buffers(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = None if batch.pixels is None else as_images(batch.pixels)
        features = self._of_cache(batch)
        unrelated = None if batch.unrelated is None else as_images(batch.unrelated)
        alone = self.trainer.world_size == 1 or self.device.type == "cuda"
        with nullcontext() if alone else SharedBatchNorm():
            features = self.describe(images) if features is None else features  # type: ignore[arg-type]
            loss = self.training_loss(images, features, unrelated)  # type: ignore[arg-type]  # None: see needs_pixels
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

    # What is in the checkpoint beside the students.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """All that makes the file a detector: teachers are told by their fingerprints, everything else is in it.

        Its decision is that of the weights in the file, or none: where the latest validation scored other weights, as
        between two validations or where a callback averages weights, the thresholds would not fit the scores.
        """
        decision = self.decision
        if decision is not None and self.decided_for not in (None, fingerprint(checkpoint["state_dict"])):
            decision = None
        checkpoint["lit_ad"] = {
            **replace(self.card, decision=decision).to_dict(),
            "teachers": {
                name: {"name": t.name, "taps": list(t.taps), "fingerprint": t.fingerprint}
                for name, t in self.teachers().items()
            },
        }
        arguments = checkpoint.get("hyper_parameters", {})
        if isinstance(arguments.get("view"), View):
            arguments["view"] = arguments["view"].to_dict()  # plain values, or the file could not be read as data

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint is another method's, of other teachers, or of another view."""
        about = checkpoint.get("lit_ad", {})
        mine = qualified_name(type(self))
        if about.get("method") != mine:
            raise UserError(f"this checkpoint is of {about.get('method', 'no method of lit_ad')}, not of {mine}")
        for name, teacher in self.teachers().items():
            refuse_another(teacher, about["teachers"].get(name, {}))
        view = replace(View.from_dict(about["view"]), tile_batch=self.view.tile_batch)  # changes no number
        asked = self.hparams.get("view")
        if isinstance(asked, View) and asked.window == "auto":  # which the training has found
            self.view = replace(self.view, window=view.window)
        if view != self.view:
            pairs = [(name, value, getattr(self.view, name)) for name, value in view.to_dict().items()]
            differ = ", ".join(
                f"{name} {theirs!s:.40}, not {ours!s:.40}" for name, theirs, ours in pairs if theirs != ours
            )
            raise UserError(f"this checkpoint was trained at {differ}: leave model.view as it was, or train anew")
        refuse_other_networks(self, checkpoint)
        decision = about.get("decision")
        self.decision = None if decision is None else Decision.from_dict(decision)

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
        path, device = resolve_path(checkpoint_path), torch_device(map_location)
        checkpoint = read_checkpoint(path)
        method = method_class(str(checkpoint.get("lit_ad", {}).get("method", "")), path)
        if not issubclass(method, cls):
            raise UserError(f"{path} is a checkpoint of {method.__name__}, not of {cls.__name__}")
        if weights is not None:
            arguments["weights"] = str(weights)
        trained = {**checkpoint["hyper_parameters"], "view": View.from_dict(checkpoint["lit_ad"]["view"])}
        kept = {n: value for n, value in trained.items() if not n.startswith("_") and n not in arguments}
        kept = {n: found_weights(value, path) if n.endswith("weights") else value for n, value in kept.items()}
        model = method(**kept, **arguments)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        return model.to(device).eval()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; after it, every part in the mode that it was in."""
    training = [part for part in model.modules() if part.training]  # none of a detector: nothing is written to
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def as_images(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1]; every network normalises for itself.

    On a CPU, channels last, in which convolutions need not bring them there and back: an eighth of MKD's step.
    """
    if pixels.device.type == "cpu":
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return pixels.float() / 255


def refuse_not_finite(judgements: list[Judgement], batch: Batch) -> None:
    """Raise NotFiniteError that names the first image of a batch of which a number is NaN or infinite."""
    for judgement, sample in zip(judgements, batch.samples, strict=True):
        judgement.refuse_not_finite(str(sample.image))


def as_array(values: Tensor) -> Floats:
    """Return a tensor as a float32 array of the same shape."""
    return values.detach().float().cpu().numpy()


def refuse_another(teacher: Teacher, trained: dict[str, Any]) -> None:
    """Raises UserError where a checkpoint was trained with another teacher than the model's, or with other taps or
    weights of it. `trained`: what the checkpoint says of its own."""
    taps = list(teacher.taps)
    for what, key, theirs, ours in (
        ("the teacher", "backbone", trained.get("name"), teacher.name),
        (f"taps of {teacher.name}", "taps", trained.get("taps"), taps),
        (f"weights of {teacher.name}", "weights", trained.get("fingerprint"), teacher.fingerprint),
    ):
        if theirs != ours:
            raise UserError(
                f"this checkpoint was trained with {what} {theirs}, but the model has {ours}: give model.{key} as in "
                "training"
            )


def refuse_other_networks(method: Method, checkpoint: dict[str, Any]) -> None:
    """Raises UserError where the networks in a checkpoint have other tensors than the model's, or of other shapes."""
    there, here = (
        {n: tensor.shape for n, tensor in s.items()} for s in (checkpoint["state_dict"], method.state_dict())
    )
    wrong = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if wrong and method.strict_loading:
        changed = changed_arguments(checkpoint, method.hparams)
        settings = [f"model.{name} {then}, not {now}" for name, (then, now) in changed.items()]
        raise UserError(
            f"this checkpoint has other networks than the model ({wrong[0]} is one difference): give the model the "
            f"arguments that it was trained with{': ' if settings else ''}{', '.join(settings)}"
        )


def qualified_name(method: type) -> str:
    """MODULE.CLASS."""
    return f"{method.__module__}.{method.__qualname__}"


def method_class(name: str, path: Path) -> type[Method]:
    """The class that a checkpoint names. It must be imported already, as lit_ad's own are: a file runs no code.

    Raises:
        UserError: It is not there, or no method.
    """
    module, _, attribute = name.rpartition(".")
    method = getattr(sys.modules.get(module), attribute, None)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(
            f"{path} is a checkpoint of {name or 'no method of lit_ad'}, which is not known here"
            + (f": import {module} first" if name and module not in sys.modules else "")
        )
    return method


def found_weights(weights: Any, checkpoint: Path) -> Any:
    """A teacher's weights as the method takes them: a file that has moved is looked for beside the checkpoint, in its
    folder and in the run's. Raises UserError if it is nowhere."""
    if not isinstance(weights, str) or weights == "hub" or weights.startswith(("hf-hub:", "pip:")):
        return weights
    file = resolve_path(weights)
    if file.is_file():
        return weights
    beside = [folder / file.name for folder in (checkpoint.parent, checkpoint.parent.parent)]
    for place in beside:
        if place.is_file():
            return str(place)
    raise UserError(
        f"the teacher's weights of {checkpoint} are not at {file}, nor at {' or '.join(map(str, beside))}: put them "
        "there, or give their path as `weights`"
    )
