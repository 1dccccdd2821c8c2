"""What nominal images set: a method's statistics, and the decision."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_ad.batch import Batch, Sample
from lit_ad.detector.decision import NO_DECISION, Decision
from lit_ad.detector.decision_keys import DecisionKeys, DecisionSettings
from lit_ad.detector.guarantee import describe_by_hand, list_warnings
from lit_ad.detector.held_out import HeldOutImages, join_held
from lit_ad.detector.pixel_rule import CleanUpKey, PixelKind
from lit_ad.detector.thresholds import check_confidence, held_out_for
from lit_ad.distributed import gather
from lit_ad.errors import UserError, check_number
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.teachers.weights import fingerprint
from lit_ad.training.nominal_images import data_of, held_out, nominal
from lit_ad.training.scale_images import choose_scale_images, flatten, looked_at
from lit_ad.training.selection import chosen_in_fit


class Calibration(L.Callback):
    """Give a method the nominal images that its statistics want, and set its decision by the held-out ones.

    Both are in the checkpoint of the weights that they were made with. No test image is ever looked at. Other callbacks
    may exchange the weights, to average them for example: a decision is kept for those that scored the held-out images,
    and a test judges by those of the checkpoint. The decision says what else the training chose on the held-out images,
    which makes its false-alarm rate approximate.

    Args:
        false_alarm: The rate of nominal images that may be called anomalous. None: the checkpoint's, 0.01 in a first
            training.
        confidence: Keep that rate by this one detector with a confidence, such as 0.95, over the draw of the held-out
            images, which takes more of them. None: the checkpoint's; in a first training, the rate is kept in the mean.
        folds: Into how many parts nominal images are cut, or leave-one-out, so that all of them train and decide. For
            few images: a training for each part leaves it out and scores it, and at last one has all images. None:
            data.split.val_fraction holds images out.
        pixel: Which pixels are anomalous. "image": at most that rate of nominal images have any; "region": at most that
            rate have a region of `area` connected pixels or more, and smaller ones are not marked; "pixel": about
            `pixel_rate` of nominal pixels. None: the checkpoint's, image in a first training.
        pixel_rate: The rate of nominal pixels of "pixel", and of where a cleaned-up region ends. None: the
            checkpoint's, false_alarm in a first training.
        area: Pixels of the smallest region that counts, at the images' size. None: the checkpoint's, if it has one.
        clean_up: Grow anomalous pixels to the outline of a defect: true, by what is learned from held-out maps; false;
            or any of {low: 0.5, reach: 5, closing: 3, holes: 50, area: 50} in place of what is learned. None: the
            checkpoint's, false in a first training.
    """

    def __init__(
        self,
        false_alarm: float | None = None,
        folds: int | Literal["leave-one-out"] | None = None,
        pixel: PixelKind | None = None,
        pixel_rate: float | None = None,
        area: int | None = None,
        clean_up: CleanUpKey | None = None,
        confidence: float | None = None,
    ) -> None:
        if false_alarm is not None and not 0 < false_alarm < 1:
            raise UserError(f"decision.false_alarm is a rate between 0 and 1, not {false_alarm}")
        if isinstance(folds, int):
            check_number("decision.folds", folds, least=2)
        check_confidence(confidence, folds is not None)
        self.folds = folds
        self.left_out: Decision | None = None  # by the images that the trainings of the folds left out; of the last one
        self.keys = DecisionKeys(false_alarm, confidence, pixel, pixel_rate, area, clean_up)
        self.settings = DecisionSettings().changed(self.keys)  # in checkpoints: those between validations need them
        self.warned = False
        self.loaded: Mapping[str, Tensor] | None = None  # the weights of the checkpoint, until a test begins
        self.validations = 0  # of this fit, so far
        self.looked = False  # whether the method's statistics look at held-out images

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Find a window that is "auto", in the nominal training images. Raises UserError if they have none, or if keys
        do not go together."""
        if stage == "fit":
            self.settings.pixel_rule.check()
        if stage == "fit" and pl_module.view.window == "auto":
            train = data_of(trainer, pl_module).splits.train
            view = pl_module.view.resolved([sample.image for sample in train])
            _set_view(trainer, pl_module, view)
            low, high = view.window
            rank_zero_info(f"view.window is auto: values from {low:g} to {high:g} become 0 to 255")

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Remember whose decision the checkpoint has. The window that it was trained with is the data's, too."""
        if trainer.state.fn == "fit":
            pl_module.decided_for = fingerprint(checkpoint["state_dict"])
        else:
            self.loaded, pl_module.decided_for = checkpoint["state_dict"], None
        _set_view(trainer, pl_module, pl_module.view)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises UserError if all images train, and no scores of left-out ones are known."""
        self.validations, self.looked = 0, False
        last = self.folds is not None and not data_of(trainer, pl_module).splits.val
        if last and self.left_out is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError("decision.folds takes the trainings of the folds, which lit-ad fit and lit_ad.fit do")

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0 and type(pl_module).prepare is not Method.prepare:
            pl_module.prepare(nominal(trainer, pl_module))

    def state_dict(self) -> dict[str, Any]:
        return self.settings.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._adopt(DecisionSettings.from_dict(state_dict))

    def _adopt(self, earlier: DecisionSettings) -> None:
        """Take from earlier settings what was not given; folds have no confidence."""
        kept = earlier if self.folds is None else replace(earlier, confidence=None)
        self.settings = kept.changed(self.keys)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if pl_module.decision is not None:
            self._adopt(pl_module.decision.settings)
        self.seen = HeldOutImages(self.settings.pixel_rule.area)
        self.scored_by: str | None = None  # the fingerprint of the weights
        self.calibrated: str | None = None
        self.scale_images: dict[str, list[int]] = {}  # numbers of held-out ones that do not decide, by category
        self.undecided: set[Sample] = set()  # the same images
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if training and type(pl_module).calibrate is not Method.calibrate:
            # With folds, the last training holds no image out, and each of the others must do as the last one does.
            val = data_of(trainer, pl_module).splits.val
            none_held = self.folds or not val
            if not none_held and not chosen_in_fit(trainer, pl_module, self.validations + 1, scaled=False):
                self.scale_images = choose_scale_images(
                    val, held_out_for(self.settings.false_alarm, self.settings.confidence)
                )
            rows = looked_at(val, self.scale_images)
            scaling = nominal(trainer, pl_module) if none_held else self._noticed(held_out(trainer, pl_module, rows))
            with torch.no_grad():
                pl_module.calibrate(nominal(trainer, pl_module), scaling)
            self.scale_images = self.scale_images if self.looked else {}
            self.calibrated = weights_of(trainer)
        elif trainer.state.fn == "validate" and pl_module.decision is not None and any(pl_module.decision.scaled):
            halves = choose_scale_images(data_of(trainer, pl_module).splits.val, 0)
            self.scale_images = {name: rows for name, rows in halves.items() if name in pl_module.decision.scaled}
        if self.scale_images:
            samples = data_of(trainer, pl_module).splits.val
            self.undecided = {samples[row] for row in flatten(self.scale_images)}

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Now every callback has put in place the weights that it validates."""
        if batch_idx > 0 or trainer.sanity_checking:
            return
        self._restore(pl_module)
        self.scored_by = weights_of(trainer)
        if self.calibrated not in (None, self.scored_by):
            raise UserError(
                f"a callback exchanged the weights of {type(pl_module).__name__} after Calibration had set its "
                "statistics: put Calibration after it in the Trainer's callbacks"
            )

    def _noticed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; notes that they are looked at."""
        self.looked = True
        yield from batches

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        roi = pl_module.view.region
        for sample, size, judgement in zip(batch.samples, batch.sizes, outputs, strict=True):
            if sample in self.undecided:
                continue
            anomaly_map = None if judgement.network_map is None else judgement.original_map(size, roi)
            self.seen.add(sample.category, judgement.score, anomaly_map, roi)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        held = join_held(gather([self.seen.held]))
        fitting = trainer.state.fn == "fit"
        left_out = self.left_out if fitting and not held["scores"] else None
        if trainer.sanity_checking or not (held["scores"] or left_out):
            return
        earlier: Decision | None = pl_module.decision
        settings: dict[str, Any] = vars(self.settings)
        if left_out is not None:
            decision, self.scored_by = replace(left_out, **settings), weights_of(trainer)
        else:
            decision = Decision(**held, **settings)
        if fitting:
            self.validations += 1
            scaled = {name: len(rows) for name, rows in self.scale_images.items()}
            if left_out is None:
                chosen = {
                    name: chosen_in_fit(trainer, pl_module, self.validations, self.looked and name not in scaled)
                    for name in decision.scores
                }
                decision = replace(decision, also_chosen=chosen, scaled=scaled)
            if earlier is not None and describe_by_hand(earlier):
                lines = "; ".join(describe_by_hand(earlier))
                rank_zero_warn(
                    f"thresholds set by hand were of the weights before this training, and are gone: {lines}"
                )
        elif earlier is not None:  # the same weights
            kept = ("also_chosen", "by_hand", "pixels_by_hand", "folds", "scaled")
            decision = replace(decision, **{name: getattr(earlier, name) for name in kept})
        pl_module.decision = decision
        pl_module.decided_for = trainer.strategy.broadcast(self.scored_by)  # the first process has a batch
        if self.folds is None or left_out is not None:
            self._warn(decision)

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        decision: Decision | None = pl_module.decision
        if decision is None:
            return
        lines, before = describe_by_hand(decision), decision.false_alarm
        pl_module.decision = decision = decision.changed(self.keys)
        if lines and decision.false_alarm != before:
            rate = f"false_alarm {decision.false_alarm:g}"
            lines.append(f"decision.{rate} moves nothing set by hand; lit-ad recalibrate --{rate} does")
        self._warn(decision)
        for line in lines:
            rank_zero_info(line)

    on_predict_start = on_test_start

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Judge by the weights of the checkpoint, and by no decision of others."""
        if batch_idx > 0:
            return
        self._restore(pl_module)
        if pl_module.decided_for is not None and pl_module.decided_for != weights_of(trainer):
            pl_module.decision = None
        if pl_module.decision is None:
            rank_zero_warn(NO_DECISION)

    on_predict_batch_start = on_test_batch_start

    def _restore(self, pl_module: Any) -> None:
        """Put back the weights of the checkpoint where a callback has exchanged them."""
        loaded, self.loaded = self.loaded, None
        if loaded is not None and not same_weights(pl_module.state_dict(), loaded):
            pl_module.load_state_dict(loaded)
            rank_zero_info("A callback had exchanged the weights: those of the checkpoint are in place again")

    def _warn(self, decision: Decision) -> None:
        """Once."""
        if not self.warned:
            for warning in list_warnings(decision):
                rank_zero_warn(warning)
        self.warned = True


def _set_view(trainer: L.Trainer, method: Any, view: View) -> None:
    """Have method and data look through the window of a view: the one place where a run sets it, before any image is
    read. It comes from the nominal training images, or from the checkpoint that a run begins with."""
    method.view = view
    data: Any = getattr(trainer, "datamodule", None)
    if data is not None and data.view.window != view.window:
        data.view = replace(data.view, window=view.window)


def weights_of(trainer: L.Trainer) -> str:
    """The fingerprint of the weights in use. Strategies that shard a model gather it: all processes must call this."""
    return fingerprint(trainer.strategy.lightning_module_state_dict())


def same_weights(state: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a model are those of a file, as the model's precision rounds them; NaN equals NaN."""
    return all(
        torch.allclose(tensor, loaded[name].to(tensor), rtol=0, atol=0, equal_nan=True)
        for name, tensor in state.items()
        if name in loaded and loaded[name].shape == tensor.shape
    )
