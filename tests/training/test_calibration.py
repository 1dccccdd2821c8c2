"""Held-out nominal images set the decision, and no other image does."""

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from PIL import Image

from lit_ad import Detector
from lit_ad.batch import Prediction, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Split
from lit_ad.detector.decision import Decision
from lit_ad.detector.far_above import describe_far_above
from lit_ad.detector.pixel_rule import PixelRule
from lit_ad.detector.summary import summarize
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.evaluation import Evaluation, Predictions
from lit_ad.evaluation.promises import list_guarantees
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.training import Calibration, FeatureCache
from lit_ad.training.best_checkpoint import BestCheckpoint
from lit_ad.training.monitors import MonitorCheck


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_held_out_images_set_the_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """The decision of each category has the scores, and the maxima and medians of the maps at the original size. The
    checkpoint has the same decision."""
    model = brightness(View((12, 18)))
    data = AnomalyDataModule(MVTec(parts), model.view, batch_size=3, loading=Loading(num_workers=0))
    fitting = quiet_trainer(tmp_path / "run", Calibration(0.4))
    with pytest.warns(UserWarning, match="2 held-out nominal images of bolt allow a false-alarm rate of 0.333"):
        quiet_trainer(tmp_path / "other", Calibration(0.2)).fit(brightness(View((12, 18))), data)
    fitting.fit(model, data)
    assert model.decision is not None
    assert model.decision.false_alarm == 0.4
    for category in ("bolt", "nut"):
        scores, maxima, medians = [], [], []
        for sample in data.splits.val:
            if sample.category == category:
                seen = torch.from_numpy(
                    model.view(np.repeat(read(sample.image)[..., None], 3, 2))[0][..., 0] / np.float32(255)
                )
                whole = torch.nn.functional.interpolate(seen[None, None], (24, 36), mode="bilinear")
                scores.append(float(seen.max()))
                maxima.append(float(whole.max()))
                medians.append(float(np.median(whole)))
        assert len(scores) == 2
        assert model.decision.scores[category] == pytest.approx(sorted(scores))
        assert model.decision.maxima[category] == pytest.approx(sorted(maxima))
        assert model.decision.medians[category] == pytest.approx(sorted(medians), abs=1e-6)
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["lit_ad"]["decision"]
    assert Decision.from_dict(saved).to_dict() == model.decision.to_dict()


class Views(MVTec):
    """Two images show one bolt, and each nut has one image."""

    def samples(self) -> list[Sample]:
        listed = enumerate(super().samples())
        shown = ((i // 2 if sample.category == "bolt" else i, sample) for i, sample in listed)
        return [sample._replace(item=f"{sample.split} {part}") for part, sample in shown]


def test_the_decision_notes_categories_with_several_images_of_one_part(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model = brightness()
    data = AnomalyDataModule(Views(parts), model.view, split=Split(0.4), loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Calibration(0.4)).fit(model, data)
    assert model.decision.repeated == ["bolt"]
    quiet_trainer(tmp_path / "validate", Calibration()).validate(model, data, verbose=False)
    assert model.decision.repeated == ["bolt"]


def test_keys_of_a_decision_that_nothing_sets_are_named(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    split, loading = Split(val_fraction=0), Loading(num_workers=0)
    data = AnomalyDataModule(MVTec(parts), View((12, 18)), split=split, loading=loading)
    with pytest.warns(
        UserWarning, match=r"no image is held out, so nothing uses decision\.false_alarm, decision\.pixel: give"
    ):
        quiet_trainer(tmp_path, Calibration(0.1, pixel="image")).fit(brightness(View((12, 18))), data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no image is held out")
        quiet_trainer(tmp_path, Calibration()).fit(brightness(View((12, 18))), data)


def test_a_held_out_image_with_a_defect_is_named(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """It sets the threshold. The line does not appear if no image stands out."""
    good = tmp_path / "nut/train/good"
    good.mkdir(parents=True)
    for number in range(32):
        Image.fromarray(np.full((12, 18), 100 + number, np.uint8)).save(good / f"{number:02}.png")

    def make_data() -> AnomalyDataModule:
        split, loading = Split(val_fraction=0.5), Loading(num_workers=0)
        return AnomalyDataModule(MVTec(good.parents[1]), View((12, 18)), split=split, loading=loading)

    data = make_data()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*far above all others")
        quiet_trainer(tmp_path / "run", Calibration(0.1)).fit(brightness(View((12, 18))), data)
    bad, next_one = sorted(data.splits.val, key=lambda sample: sample.image)[-1:-3:-1]
    Image.fromarray(np.full((12, 18), 200, np.uint8)).save(bad.image)
    model = brightness(View((12, 18)))
    line = (
        rf"1 of 16 held-out nominal images scores far above all others: {re.escape(str(bad.image))} has 0.784, and the "
        rf"next {read(next_one.image)[0, 0] / 255:.3g}. It sets the threshold, so that defects may be missed. If it "
        "shows a defect, move it out of the good images and train again"
    )
    with pytest.warns(UserWarning, match=line):
        quiet_trainer(tmp_path / "other", Calibration(0.1)).fit(model, make_data())
    assert model.decision is not None and summarize(model.decision)["far_above"] == describe_far_above(model.decision)


def decided(rate: float = 0.3) -> Decision:
    return Decision({"x": [0.1, 0.3, 0.5]}, false_alarm=rate)  # type: ignore[dict-item]


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.3), (0.5, 0.5)])
def test_a_test_uses_the_given_rate_or_the_rate_of_the_checkpoint(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, asked: float | None, expected: float
) -> None:
    """The held-out scores do not change."""
    for command in ("test", "predict"):
        model = brightness()
        model.decision = decided()
        data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
        trainer = quiet_trainer(tmp_path / command, Calibration(asked), Predictions(maps=False))
        getattr(trainer, command)(model, datamodule=data)
        assert model.decision.false_alarm == expected
        assert model.decision.scores["x"].tolist() == [0.1, 0.3, 0.5]


def test_a_threshold_set_by_hand_stays_until_the_weights_change(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = brightness()
    model.decision = replace(decided(), also_chosen={"x": ["the epoch"]}).with_threshold(0.2)
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    evaluation = Evaluation()
    with caplog.at_level("INFO"):
        quiet_trainer(tmp_path / "test", Calibration(0.5), evaluation).test(model, data, verbose=False)
    assert model.decision.threshold("nut") == 0.2 and model.decision.false_alarm == 0.5
    assert "threshold 0.2, set by hand: p-value at most 0.75, 2 of 3 held-out nominal images above it" in caplog.text
    assert (
        "decision.false_alarm 0.5 changes no threshold set by hand; lit-ad recalibrate --false_alarm 0.5 does"
        in caplog.text
    )
    assert evaluation.results is not None and evaluation.results.by_hand
    assert {image.threshold for image in evaluation.results.images} == {0.2}
    saved = json.loads((tmp_path / "test/metrics.json").read_text())["decision"]
    assert saved["thresholds"][0]["image"]["p_value"] == 0.75 and not saved["thresholds"][0]["exact"]
    quiet_trainer(tmp_path / "validate", Calibration()).validate(model, data, verbose=False)
    assert model.decision.threshold() == 0.2 and model.decision.also_chosen == {"x": ["the epoch"]}
    trained = brightness()
    trained.decision = model.decision
    with pytest.warns(
        UserWarning, match=r"thresholds set by hand belonged to the weights before this training, and are"
    ):
        quiet_trainer(tmp_path / "fit", Calibration(0.4)).fit(trained, data)
    assert not trained.decision.operating_point().by_hand


def test_a_test_sets_no_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Calibration(0.4)).test(model, data, verbose=False)
    assert model.decision is None


def test_a_validation_without_training_keeps_the_rate_of_the_checkpoint(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model = brightness()
    model.decision = decided(0.45)
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Calibration()).validate(model, data, verbose=False)
    assert model.decision.false_alarm == 0.45
    assert set(model.decision.scores) == {"nut"}
    first = brightness()
    quiet_trainer(tmp_path / "run", Calibration()).validate(first, data, verbose=False)
    assert first.decision.false_alarm == 0.01  # the rate of a first decision


def test_a_sanity_check_sets_no_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path / "run", Calibration(0.4))
    trainer.num_sanity_val_steps, trainer.fit_loop.max_epochs = 1, 0
    trainer.fit(model, data)
    assert model.decision is None


def test_a_method_without_maps_has_no_pixel_threshold(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Scores(brightness):  # type: ignore[misc]
        def detect(self, disagreement: torch.Tensor) -> Prediction:
            return Prediction(None, disagreement.flatten(1).amax(dim=1))

    model = Scores()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Calibration(0.4)).validate(model, data, verbose=False)
    assert model.decision.threshold() > 0
    assert model.decision.pixel_threshold() is None
    assert not model.decision.maxima and not model.decision.medians


def test_a_held_out_score_that_is_nan_is_an_error(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Diverged(brightness):  # type: ignore[misc]
        map_scored = False

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            score = disagreement.flatten(1).amax(dim=1)
            score[0] = torch.nan
            return Prediction(disagreement, score)

    model = Diverged()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    file = re.escape(str(data.splits.val[0].image))
    with pytest.raises(NotFiniteError, match=f"^{file}: its score or anomaly map is NaN"):
        quiet_trainer(tmp_path / "run", Calibration(0.4)).validate(model, data, verbose=False)


def test_a_sanity_check_accepts_scores_that_are_nan_before_calibration(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Scaled(brightness):  # type: ignore[misc]
        scale = torch.nan

        def calibrate(self, nominal: Any, held_out: Any) -> None:
            self.scale = 1.0

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            return Prediction(disagreement * self.scale)

    model = Scaled()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Calibration(0.4), num_sanity_val_steps=1).fit(model, data)
    assert model.decision is not None


def test_statistics_see_each_nominal_image_once_and_no_test_image(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """`prepare` runs before the first step. `calibrate` runs before each validation except the sanity check."""
    seen: dict[str, list[tuple[list[float], list[float]]]] = {"prepare": [], "calibrate": []}

    class Statistics(brightness):  # type: ignore[misc]
        def prepare(self, nominal: Any) -> None:
            seen["prepare"].append((means(nominal), []))

        def calibrate(self, nominal: Any, held_out: Any) -> None:
            assert not torch.is_grad_enabled()
            seen["calibrate"].append((means(nominal), means(held_out)))

    def means(batches: Any) -> list[float]:
        return sorted(
            float(image.mean()) for images, (first, *_) in batches for image in images if torch.equal(images, first)
        )

    model = Statistics()
    data = AnomalyDataModule(MVTec(parts), model.view, batch_size=3, loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path / "run", Calibration(0.4))
    trainer.num_sanity_val_steps, trainer.fit_loop.max_epochs = 1, 2
    trainer.fit(model, data)
    train, val = (
        sorted(float(read(sample.image).mean()) / 255 for sample in getattr(data.splits, split))
        for split in ("train", "val")
    )
    assert len(seen["prepare"]) == 1
    assert len(seen["calibrate"]) == 2
    assert seen["prepare"][0][0] == pytest.approx(train, abs=1e-6)
    for nominal, held_out in seen["calibrate"]:
        assert nominal == pytest.approx(train, abs=1e-6)
        assert held_out == pytest.approx(val, abs=1e-6)


def test_training_images_set_the_scale_and_no_decision_where_no_image_is_held_out(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    seen: list[int] = []

    class Statistics(brightness):  # type: ignore[misc]
        def calibrate(self, nominal: Any, held_out: Any) -> None:
            seen.append(sum(len(images) for images, _ in held_out))

    model = Statistics()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=3, split=Split(0, shots=1))
    best = BestCheckpoint(monitor="val/loss", dirpath=tmp_path / "best")
    quiet_trainer(tmp_path, Calibration(0.4), best, MonitorCheck()).fit(model, data)
    assert seen == [1] and model.decision is None and Path(best.best_model_path).is_file()
    stopper = EarlyStopping("val/loss")
    with pytest.raises(UserError, match=r"EarlyStopping monitors 'val/loss', but no image is held out to measure it"):
        quiet_trainer(tmp_path, Calibration(0.4), stopper, MonitorCheck()).fit(Statistics(), data)


def test_statistics_see_images_of_different_sizes_without_padding(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """One batch of held-out images has images of several sizes. Features of images of different sizes cannot be
    cached."""
    data = AnomalyDataModule(
        MVTec(parts / "nut"), View(None), batch_size=3, loading=Loading(num_workers=0), split=Split(0.3)
    )
    for i, sample in enumerate(data.splits.val):
        Image.fromarray(np.full((20 + i, 30, 3), 99, np.uint8)).save(sample.image)
    seen: list[torch.Tensor] = []

    class Statistics(brightness):  # type: ignore[misc]
        def calibrate(self, nominal: Any, held_out: Any) -> None:
            seen.extend(image for images, _ in held_out for image in images)

    trainer = quiet_trainer(tmp_path / "run", Calibration(0.4))
    trainer.fit(Statistics(), data)
    assert [tuple(image.shape) for image in seen] == [(3, 20 + i, 30) for i in range(3)]
    assert all((image == 99 / 255).all() for image in seen)
    cache = FeatureCache(True, tmp_path / "cache", "float32")
    with pytest.raises(UserError, match="features cannot be cached for images of different sizes"):
        quiet_trainer(tmp_path / "run", cache, Calibration(0.4)).fit(Statistics(), data)


def test_a_confidence_is_kept_in_the_decision_and_can_be_changed_by_a_test(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model = brightness(View((12, 18)))
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=3, split=Split(0.5))
    trainer = quiet_trainer(tmp_path, Calibration(0.4, confidence=0.9))
    trainer.fit(model, data)
    assert model.decision is not None and model.decision.confidence == 0.9
    quiet_trainer(tmp_path / "a", Calibration()).validate(model, data, verbose=False)
    assert model.decision.confidence == 0.9
    quiet_trainer(tmp_path / "b", Calibration(confidence=0.5)).test(model, data, verbose=False)
    assert model.decision.confidence == 0.5
    quiet_trainer(tmp_path / "c", Calibration(confidence=0)).test(model, data, verbose=False)
    assert model.decision.confidence is None
    with pytest.raises(UserError, match=r"decision.confidence needs images that were held out, .* leave out one"):
        Calibration(folds=5, confidence=0.9)


def test_statistics_need_a_datamodule(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    class Statistics(brightness):  # type: ignore[misc]
        def prepare(self, nominal: Any) -> None:
            list(nominal)

    model = Statistics()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    with pytest.raises(UserError, match="Statistics needs nominal images for its statistics: fit it with a DataModule"):
        quiet_trainer(tmp_path / "run", Calibration()).fit(model, data.train_dataloader(), data.val_dataloader())


class Gain(Method):
    """A method whose map is the brightness, times a weight that every step lowers, times a statistic."""

    statistic: torch.Tensor

    def __init__(self, view: View = View(None)) -> None:
        super().__init__(view)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("statistic", torch.tensor(torch.nan))

    def describe(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]

    def compare(self, images: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        return images.mean(dim=1, keepdim=True) * self.weight

    def loss(self, disagreement: torch.Tensor) -> torch.Tensor:
        return disagreement.mean()

    def detect(self, disagreement: torch.Tensor) -> Prediction:
        return Prediction(disagreement * self.statistic)

    def calibrate(self, nominal: Any, held_out: Any) -> None:
        self.statistic.copy_(1 + self.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Halving(L.Callback):
    """Halve the weight during every validation, test and prediction."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.weight.data.mul_(0.5)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.weight.data.mul_(2)

    on_test_start, on_test_end = on_validation_start, on_validation_end
    on_predict_start, on_predict_end = on_validation_start, on_validation_end


class HalvingInFile(Halving):
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {**state, "weight": state["weight"] / 2}


class EpochAveraging(WeightAveraging):
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


class SaveOften(L.Callback):
    """Save a checkpoint after each batch, after each validation and after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: L.Trainer, when: str) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-{trainer.global_step}-{when}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.save(trainer, "batch")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self.save(trainer, "validated")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.save(trainer, "epoch")


AVERAGING: dict[str, Callable[[], list[L.Callback]]] = {
    "none": lambda: [],
    "EMA": lambda: [EMAWeightAveraging(decay=0.5)],
    "EMA, buffers apart": lambda: [EMAWeightAveraging(decay=0.5, use_buffers=False)],
    "by epochs": lambda: [EpochAveraging()],
    "SWA": lambda: [StochasticWeightAveraging(0.1, 1)],
    "others to validate": lambda: [Halving()],
    "others to validate and save": lambda: [HalvingInFile()],
}


@pytest.mark.parametrize("name", AVERAGING)
def test_a_checkpoint_has_a_decision_of_its_own_weights_or_none(
    name: str, parts: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    """A test of a checkpoint, also with the same Trainer, uses the weights and the statistics in the checkpoint."""
    evaluation = Evaluation()
    data = AnomalyDataModule(MVTec(parts / "nut"), View(None), batch_size=4, loading=Loading(num_workers=0))
    callbacks = [*AVERAGING[name](), Calibration(0.4), evaluation, SaveOften(tmp_path)]
    trainer = quiet_trainer(tmp_path / "run", *callbacks, max_epochs=3)
    trainer.fit(Gain(), data)
    brightest = sorted(float(read(sample.image).max()) / 255 for sample in data.splits.val)
    decided = set()
    for path in tmp_path.glob("*.ckpt"):
        file = torch.load(path, weights_only=True)
        decision, state = file["lit_ad"]["decision"], file["state_dict"]
        if decision is not None:
            decided.add(path.stem.split("-")[-1])
            assert state["statistic"] == 1 + state["weight"]
            expected = [value * float(state["weight"] * state["statistic"]) for value in brightest]
            assert decision["scores"]["nut"] == pytest.approx(expected, rel=1e-5)
    afterwards = set() if name == "by epochs" else {"epoch"}
    assert decided == (set() if name == "others to validate" else {"validated", *afterwards})
    path = max(tmp_path.glob("*-validated.ckpt"))
    for testing in (trainer, quiet_trainer(tmp_path / "run", *AVERAGING[name](), Calibration(), evaluation)):
        testing.test(Gain(), data, ckpt_path=path, verbose=False, weights_only=True)
        state = torch.load(path, weights_only=True)["state_dict"]
        assert evaluation.results is not None
        for image in evaluation.results.images:
            score = float(read(Path(image.path)).max()) / 255 * float(state["weight"] * state["statistic"])
            assert image.score == pytest.approx(score, rel=1e-5)


def test_a_decision_of_other_weights_is_not_used_in_a_test(parts: Path, tmp_path: Path, quiet_trainer: Any) -> None:
    """The same holds without a file, where a training goes on after its last validation. The rate is kept."""
    data = AnomalyDataModule(MVTec(parts / "nut"), View(None), batch_size=4, loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path, Calibration(0.4), max_epochs=3, check_val_every_n_epoch=2)
    model = Gain()
    trainer.fit(model, data)
    assert model.decision is not None
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    with pytest.warns(UserWarning, match=r"no threshold.*lit-ad recalibrate FILE"):
        trainer.test(model, data, verbose=False)
    assert model.decision is None
    with pytest.warns(UserWarning, match=r"no threshold.*lit-ad recalibrate FILE"):
        detector = Detector.load(tmp_path / "after.ckpt")
    assert detector(data.splits.test[0].image).anomalous is None
    resumed = Gain()
    quiet_trainer(tmp_path, Calibration(), max_epochs=4).fit(resumed, data, ckpt_path=tmp_path / "after.ckpt")
    assert resumed.decision is not None
    assert resumed.decision.false_alarm == 0.4


def test_calibration_is_refused_before_a_callback_that_exchanges_weights(
    parts: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    data = AnomalyDataModule(MVTec(parts / "nut"), View(None), batch_size=4, loading=Loading(num_workers=0))
    with pytest.raises(UserError, match="put Calibration after it in the Trainer's callbacks"):
        quiet_trainer(tmp_path, Calibration(0.4), EMAWeightAveraging(decay=0.5)).fit(Gain(), data)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0])
def test_a_rate_that_is_not_between_0_and_1_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match=r"decision.false_alarm is a rate between 0 and 1"):
        Calibration(rate)


def test_a_test_uses_the_pixel_rule_of_the_training_or_a_given_pixel_rule(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """The checkpoint holds the rule. A given rule needs values of the held-out maps that the checkpoint holds."""
    model = brightness(View((12, 18)))
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=3, loading=Loading(num_workers=0))
    fitting = quiet_trainer(tmp_path / "fit", Calibration(0.4, pixel="region", area=5))
    fitting.fit(model, data)
    assert model.decision is not None and model.decision.pixel_rule == PixelRule("region", area=5)
    assert len(model.decision.peaks["nut"]) == len(data.splits.val)
    fitting.save_checkpoint(tmp_path / "a.ckpt")

    def tested(calibration: Calibration) -> Evaluation:
        evaluation = Evaluation()
        trainer = quiet_trainer(tmp_path / "test", calibration, evaluation)
        trainer.test(brightness(View((12, 18))), data, ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True)
        return evaluation

    region, pixel = tested(Calibration()).results, tested(Calibration(pixel="pixel", pixel_rate=0.1)).results
    assert region is not None and pixel is not None
    for results, sentence in (
        (region, "5 connected pixels or more"),
        (pixel, "% of a held-out nominal image's pixels"),
    ):
        assert sentence in " ".join(list_guarantees(results))
        pooled = results.rows["pooled"]
        assert pooled["mask_false_alarm_rate"] == pooled["mask_false_alarms"] / pooled["nominal_images"]
    assert region.pixel_threshold != pixel.pixel_threshold
    cleaned = tested(Calibration(clean_up={"closing": 2})).results
    assert cleaned is not None and cleaned.decision is not None
    marking = cleaned.decision["thresholds"][0]["pixels"]["marking"]
    assert marking["clean_up"]["closing"] == 2 and marking["clean_up"]["low"] <= marking["threshold"]
    assert cleaned.rows["pooled"]["mask_false_alarms"] == region.rows["pooled"]["mask_false_alarms"]
    with pytest.raises(
        UserError, match="peaks of held-out maps for regions of 6 pixels, and this model has not kept them"
    ):
        tested(Calibration(area=6))
    with pytest.raises(UserError, match=r"decision.pixel region needs decision.area"):
        quiet_trainer(tmp_path / "other", Calibration(pixel="region")).fit(brightness(), data)
