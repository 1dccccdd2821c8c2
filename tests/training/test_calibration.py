"""Held-out nominal images set the decision, and nothing else does."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.batch import Prediction
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.detector.decision import Decision
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.evaluation import Predictions
from lit_ad.image.view import View
from lit_ad.training import Calibration, FeatureCache


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_held_out_images_set_the_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """Of each category, by scores, maxima and medians of the original-size maps; in the checkpoint too."""
    model = brightness(View((12, 18)))
    data = AnomalyDataModule(MVTec(parts), model.view, batch_size=3, num_workers=0)
    fitting = quiet_trainer(tmp_path / "run", Calibration(0.4))
    with pytest.warns(UserWarning, match="2 held-out nominal images of bolt allow a false-alarm rate of 0.333"):
        quiet_trainer(tmp_path / "other", Calibration(0.2)).fit(brightness(View((12, 18))), data)
    fitting.fit(model, data)
    assert model.decision is not None
    assert model.decision.false_alarm == 0.4
    for category in ("bolt", "nut"):
        scores, maxima, medians = [], [], []
        for sample in data.listed["val"]:
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


def decided(rate: float = 0.3) -> Decision:
    return Decision({"x": [0.1, 0.3, 0.5]}, false_alarm=rate)  # type: ignore[dict-item]


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.3), (0.5, 0.5)])
def test_the_rate_of_a_test_is_that_asked_for_or_the_checkpoints(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, asked: float | None, expected: float
) -> None:
    """The held-out scores stay as they are."""
    for command in ("test", "predict"):
        model = brightness()
        model.decision = decided()
        data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
        trainer = quiet_trainer(tmp_path / command, Calibration(asked), Predictions(maps=False))
        getattr(trainer, command)(model, datamodule=data)
        assert model.decision.false_alarm == expected
        assert model.decision.scores["x"].tolist() == [0.1, 0.3, 0.5]


def test_a_test_never_sets_a_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    quiet_trainer(tmp_path / "run", Calibration(0.4)).test(model, data, verbose=False)
    assert model.decision is None


def test_validating_alone_keeps_the_rate_of_the_checkpoint(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model = brightness()
    model.decision = decided(0.45)
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    quiet_trainer(tmp_path / "run", Calibration()).validate(model, data, verbose=False)
    assert model.decision.false_alarm == 0.45
    assert set(model.decision.scores) == {"nut"}
    first = brightness()
    quiet_trainer(tmp_path / "run", Calibration()).validate(first, data, verbose=False)
    assert first.decision.false_alarm == 0.01  # a first one's


def test_sanity_checks_decide_nothing(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
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
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    quiet_trainer(tmp_path / "run", Calibration(0.4)).validate(model, data, verbose=False)
    assert model.decision.threshold() > 0
    assert model.decision.pixel_threshold() is None
    assert not model.decision.maxima and not model.decision.medians


def test_one_held_out_score_that_is_no_number_is_an_error(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Diverged(brightness):  # type: ignore[misc]
        map_scored = False

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            score = disagreement.flatten(1).amax(dim=1)
            score[0] = torch.nan
            return Prediction(disagreement, score)

    model = Diverged()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    file = re.escape(str(data.listed["val"][0].image))
    with pytest.raises(NotFiniteError, match=f"^{file}: its score or anomaly map is NaN"):
        quiet_trainer(tmp_path / "run", Calibration(0.4)).validate(model, data, verbose=False)


def test_a_sanity_check_comes_before_the_statistics_that_make_scores_finite(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Scaled(brightness):  # type: ignore[misc]
        scale = torch.nan

        def calibrate(self, nominal: Any, held_out: Any) -> None:
            self.scale = 1.0

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            return Prediction(disagreement * self.scale)

    model = Scaled()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    quiet_trainer(tmp_path / "run", Calibration(0.4), num_sanity_val_steps=1).fit(model, data)
    assert model.decision is not None


def test_statistics_see_nominal_images_once_and_never_those_of_the_test(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """`prepare` before the first step, `calibrate` before each validation but the sanity check's."""
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
    data = AnomalyDataModule(MVTec(parts), model.view, batch_size=3, num_workers=0)
    trainer = quiet_trainer(tmp_path / "run", Calibration(0.4))
    trainer.num_sanity_val_steps, trainer.fit_loop.max_epochs = 1, 2
    trainer.fit(model, data)
    train, val = (
        sorted(float(read(sample.image).mean()) / 255 for sample in data.listed[split]) for split in ("train", "val")
    )
    assert len(seen["prepare"]) == 1
    assert len(seen["calibrate"]) == 2
    assert seen["prepare"][0][0] == pytest.approx(train, abs=1e-6)
    for nominal, held_out in seen["calibrate"]:
        assert nominal == pytest.approx(train, abs=1e-6)
        assert held_out == pytest.approx(val, abs=1e-6)


def test_statistics_and_cached_features_are_of_whole_images_alone(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """Images of many sizes in one batch of held-out images: none with what fills it up."""
    data = AnomalyDataModule(MVTec(parts / "nut"), View(None), batch_size=3, num_workers=0, val_fraction=0.3)
    for i, sample in enumerate(data.listed["val"]):
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


def test_statistics_need_a_datamodule(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    class Statistics(brightness):  # type: ignore[misc]
        def prepare(self, nominal: Any) -> None:
            list(nominal)

    model = Statistics()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    with pytest.raises(UserError, match="Statistics needs nominal images for its statistics: fit it with a DataModule"):
        quiet_trainer(tmp_path / "run", Calibration()).fit(model, data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(UserError, match=r"decision.false_alarm is a rate between 0 and 1"):
        Calibration(rate)
