"""Compute a method's statistics, and set its decision, from nominal images."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_ad.batch import Batch, Sample, list_repeated
from lit_ad.detector.decision import NO_DECISION, Decision
from lit_ad.detector.decision_keys import DecisionKeys, DecisionSettings
from lit_ad.detector.far_above import describe_far_above
from lit_ad.detector.guarantee import describe_by_hand, list_warnings
from lit_ad.detector.held_out import HeldOutImages, join_held
from lit_ad.detector.pixel_rule import CleanUpKey, PixelKind
from lit_ad.detector.thresholds import check_confidence, count_needed
from lit_ad.distributed import gather
from lit_ad.errors import UserError, check_number
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.teachers.weights import fingerprint
from lit_ad.training.nominal_images import data_of, held_out, nominal
from lit_ad.training.scale_images import choose_scale_images, flatten, list_scale_images
from lit_ad.training.selection import list_choices


class Calibration(L.Callback):
    """Computes a method's statistics from nominal images, and sets its decision by the held-out ones.

    A checkpoint holds the statistics and the decision of its own weights. Test images are never used. If another
    callback exchanges the weights, for example to average them, the decision stays with the weights that scored the
    held-out images, and a test uses the weights of the checkpoint. The decision records what else the training chose on
    the held-out images, because such a choice makes its false-alarm rate approximate.

    Args:
        false_alarm: Rate of nominal images that may be called anomalous. None: the checkpoint's, or 0.01 in a first
            training.
        confidence: The probability, such as 0.95, that this detector keeps the rate. (The held-out images are a random
            draw.) A confidence needs more held-out images. 0: none is asked for, and the rate holds on average. None:
            the checkpoint's, 0 in a first training.
        folds: Number of parts of the nominal images, or leave-one-out. For each part, one training leaves the part out
            and then scores it. The last training uses all images. So every image is used for training and for the
            threshold, which suits few images. None: data.split.val_fraction holds images out.
        pixel: Which pixels are anomalous. "image": at most that rate of nominal images have any; "region": at most that
            rate have a region of `area` connected pixels or more, and smaller ones are not marked; "pixel": about
            `pixel_rate` of nominal pixels. None: the checkpoint's, image in a first training.
        pixel_rate: The rate of nominal pixels that may be marked when `pixel` is "pixel". With clean_up, it also sets
            the lower threshold, down to which a region grows, unless clean_up gives `low`. None: the checkpoint's,
            false_alarm in a first training.
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
        check_confidence(confidence or None, folds is not None)
        self.folds = folds
        self.left_out: Decision | None = None  # made from the scores of all folds; only the last training uses it
        self.keys = DecisionKeys(false_alarm, confidence, pixel, pixel_rate, area, clean_up)
        self.settings = DecisionSettings().with_keys(self.keys)  # checkpoints between validations need them, too
        self.warned = False
        self.loaded: Mapping[str, Tensor] | None = None  # the weights of the checkpoint, until a test begins
        self.validations = 0  # of this fit, so far
        self.looked = False  # whether the method's statistics look at held-out images

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Replace the window "auto" of a view by that of the nominal training images.

        Raises:
            UserError: The images have no window, or keys of the pixel rule contradict each other.
        """
        if stage == "fit":
            self.settings.pixel_rule.check()
        if stage == "fit" and pl_module.view.window == "auto":
            train = data_of(trainer, pl_module).splits.train
            view = pl_module.view.resolved([sample.image for sample in train])
            _set_view(trainer, pl_module, view)
            low, high = view.window
            rank_zero_info(f"view.window is auto: values from {low:g} to {high:g} become 0 to 255")

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Remember the weights that the checkpoint's decision belongs to, and give its view's window to the data."""
        if trainer.state.fn == "fit":
            pl_module.decided_for = fingerprint(checkpoint["state_dict"])
        else:
            self.loaded, pl_module.decided_for = checkpoint["state_dict"], None
        _set_view(trainer, pl_module, pl_module.view)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Count this fit's validations from 0. Raises UserError if this is the last training of folds, but no fold was
        trained and scored before it."""
        self.validations, self.looked = 0, False
        splits, given = getattr(getattr(trainer, "datamodule", None), "splits", None), ", ".join(self.keys.given())
        self.repeated = [] if splits is None else list_repeated(splits.val)
        if self.folds is None and splits is not None and not splits.val and given:
            rank_zero_warn(f"no image is held out, so nothing uses {given}: give it to `lit-ad recalibrate`")
        last = self.folds is not None and not data_of(trainer, pl_module).splits.val
        if last and self.left_out is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError("decision.folds needs one training for each fold: use lit-ad fit or lit_ad.fit")

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0 and type(pl_module).prepare is not Method.prepare:
            pl_module.prepare(nominal(trainer, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Name held-out images that may show a defect."""
        if pl_module.decision is not None and (self.folds is None or self.left_out is not None):
            for line in describe_far_above(pl_module.decision):
                rank_zero_warn(line)

    def state_dict(self) -> dict[str, Any]:
        return self.settings.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._adopt(DecisionSettings.from_dict(state_dict))

    def _adopt(self, earlier: DecisionSettings) -> None:
        """Take the settings that the user did not give from `earlier`. With folds, there is no confidence."""
        kept = earlier if self.folds is None else replace(earlier, confidence=None)
        self.settings = kept.with_keys(self.keys)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if pl_module.decision is not None:
            self._adopt(pl_module.decision.settings)
        self.seen = HeldOutImages(self.settings.pixel_rule.area)
        self.scored_by: str | None = None  # fingerprint of the weights that score the held-out images
        self.calibrated: str | None = None  # fingerprint of the weights whose statistics were computed
        self.scale_images: dict[str, list[int]] = {}  # by category, held-out images that set only the scale
        # The same images: held-out images that set the scale of the maps and must not set the threshold.
        self.scale_only: set[Sample] = set()
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if training and type(pl_module).calibrate is not Method.calibrate:
            # With folds, the last training has no held-out image, so it computes the map scale from the training
            # images. The other trainings must do the same.
            val = data_of(trainer, pl_module).splits.val
            none_held = self.folds or not val
            if not none_held and not list_choices(trainer, pl_module, self.validations + 1, scaled=False):
                self.scale_images = choose_scale_images(
                    val, count_needed(self.settings.false_alarm, self.settings.confidence)
                )
            rows = list_scale_images(val, self.scale_images)
            scaling = nominal(trainer, pl_module) if none_held else self._note_use(held_out(trainer, pl_module, rows))
            with torch.no_grad():
                pl_module.calibrate(nominal(trainer, pl_module), scaling)
            self.scale_images = self.scale_images if self.looked else {}
            self.calibrated = fingerprint_weights(trainer)
        elif trainer.state.fn == "validate" and pl_module.decision is not None and any(pl_module.decision.scaled):
            halves = choose_scale_images(data_of(trainer, pl_module).splits.val, 0)
            self.scale_images = {name: rows for name, rows in halves.items() if name in pl_module.decision.scaled}
        if self.scale_images:
            samples = data_of(trainer, pl_module).splits.val
            self.scale_only = {samples[row] for row in flatten(self.scale_images)}

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Fingerprint the weights here: every callback that exchanges them for a validation has done so by now."""
        if batch_idx > 0 or trainer.sanity_checking:
            return
        self._restore(pl_module)
        self.scored_by = fingerprint_weights(trainer)
        if self.calibrated not in (None, self.scored_by):
            raise UserError(
                f"a callback exchanged the weights of {type(pl_module).__name__} after Calibration had set its "
                "statistics: put Calibration after it in the Trainer's callbacks"
            )

    def _note_use(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the same batches, and note in `looked` that the method used them."""
        self.looked = True
        yield from batches

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        roi = pl_module.view.region
        for sample, size, judgement in zip(batch.samples, batch.sizes, outputs, strict=True):
            if sample in self.scale_only:
                continue
            anomaly_map = None if judgement.network_map is None else judgement.original_map(size, roi)
            self.seen.add(sample.category, judgement.score, anomaly_map, roi, str(sample.image))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        held = join_held(gather([self.seen.held]))
        fitting = trainer.state.fn == "fit"
        left_out = self.left_out if fitting and not held["scores"] else None
        if trainer.sanity_checking or not (held["scores"] or left_out):
            return
        earlier: Decision | None = pl_module.decision
        settings: dict[str, Any] = vars(self.settings)
        if left_out is not None:
            decision, self.scored_by = replace(left_out, **settings), fingerprint_weights(trainer)
        else:
            decision = Decision(**held, **settings)
        if fitting:
            self.validations += 1
            scaled = {name: len(rows) for name, rows in self.scale_images.items()}
            if left_out is None:
                chosen = {
                    name: list_choices(trainer, pl_module, self.validations, self.looked and name not in scaled)
                    for name in decision.scores
                }
                decision = replace(decision, also_chosen=chosen, repeated=self.repeated, scaled=scaled)
            if earlier is not None and describe_by_hand(earlier):
                lines = "; ".join(describe_by_hand(earlier))
                rank_zero_warn(
                    f"thresholds set by hand belonged to the weights before this training, and are removed: {lines}"
                )
        elif earlier is not None:  # a validation without a fit has the same weights
            kept = ("also_chosen", "repeated", "by_hand", "pixels_by_hand", "folds", "scaled")
            decision = replace(decision, **{name: getattr(earlier, name) for name in kept})
        pl_module.decision = decision
        # Only the first process surely has validation images, so all processes take its fingerprint.
        pl_module.decided_for = trainer.strategy.broadcast(self.scored_by)
        if self.folds is None or left_out is not None:
            self._warn(decision)

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        decision: Decision | None = pl_module.decision
        if decision is None:
            return
        lines, before = describe_by_hand(decision), decision.false_alarm
        pl_module.decision = decision = decision.with_keys(self.keys)
        if lines and decision.false_alarm != before:
            rate = f"false_alarm {decision.false_alarm:g}"
            lines.append(f"decision.{rate} changes no threshold set by hand; lit-ad recalibrate --{rate} does")
        self._warn(decision)
        for line in lines:
            rank_zero_info(line)

    on_predict_start = on_test_start

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Put the weights of the checkpoint back, and drop a decision that belongs to other weights."""
        if batch_idx > 0:
            return
        self._restore(pl_module)
        if pl_module.decided_for is not None and pl_module.decided_for != fingerprint_weights(trainer):
            pl_module.decision = None
        if pl_module.decision is None:
            rank_zero_warn(NO_DECISION)

    on_predict_batch_start = on_test_batch_start

    def _restore(self, pl_module: Any) -> None:
        """Put back the weights of the checkpoint if a callback has exchanged them."""
        loaded, self.loaded = self.loaded, None
        if loaded is not None and not same_weights(pl_module.state_dict(), loaded):
            pl_module.load_state_dict(loaded)
            rank_zero_info("A callback had exchanged the weights: the test uses those of the checkpoint")

    def _warn(self, decision: Decision) -> None:
        """Print the warnings of a decision, once for each Calibration."""
        if not self.warned:
            for warning in list_warnings(decision):
                rank_zero_warn(warning)
        self.warned = True


def _set_view(trainer: L.Trainer, method: Any, view: View) -> None:
    """Set the method's view, and its window in the data, before any image is read; no other function does in a run. The
    window comes from the nominal training images, or from the checkpoint that the run begins with."""
    method.view = view
    data: Any = getattr(trainer, "datamodule", None)
    if data is not None and data.view.window != view.window:
        data.view = replace(data.view, window=view.window)


def fingerprint_weights(trainer: L.Trainer) -> str:
    """Return the fingerprint of the model's weights. All processes must call it: a strategy may gather the weights."""
    return fingerprint(trainer.strategy.lightning_module_state_dict())


def same_weights(state: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> bool:
    """Return whether a model's tensors equal those of a file in the model's precision. NaN equals NaN."""
    return all(
        torch.allclose(tensor, loaded[name].to(tensor), rtol=0, atol=0, equal_nan=True)
        for name, tensor in state.items()
        if name in loaded and loaded[name].shape == tensor.shape
    )
