"""Held-out images that set a scale do not decide, where the other held-out images are enough to decide."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Split
from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import describe_guarantee
from lit_ad.detector.summary import summarize
from lit_ad.image.view import View
from lit_ad.training import Calibration
from lit_ad.training.scale_images import choose_scale_images, drop_scale_images, flatten, list_scale_images


def samples(count: int, category: str = "", items: int = 0) -> list[Sample]:
    return [
        Sample(Path(f"{category}{i}.png"), 0, category=category, item=f"{i % items}" if items else "")
        for i in range(count)
    ]


def test_every_second_image_sets_the_scale_where_a_category_has_enough() -> None:
    several = samples(9, "nut") + samples(4, "bolt")
    chosen = choose_scale_images(several, 4)
    assert chosen == {"nut": [0, 2, 4, 6, 8]}
    # All images of bolt set the scale, and decide as well.
    assert list_scale_images(several, chosen) == [0, 2, 4, 6, 8, 9, 10, 11, 12]
    assert list(flatten(chosen)) == [0, 2, 4, 6, 8]
    assert drop_scale_images(several, chosen) == [*several[1:9:2], *several[9:]]
    assert choose_scale_images(several, 5) == {} and list_scale_images(several, {}) == list(range(13))
    assert choose_scale_images(samples(1), 0) == {}  # no image would be left to decide


def test_images_of_one_item_are_chosen_together() -> None:
    assert choose_scale_images(samples(9, items=3), 3) == {"": [0, 3, 6, 2, 5, 8]}


class Scaled:
    """A part of a method that looks at held-out images and records their means."""

    seen: list[float]

    def calibrate(self, nominal: Any, held_out: Any) -> None:
        self.seen = sorted(float(image.mean()) for images, _ in held_out for image in images)


@pytest.mark.parametrize(("rate", "tile"), [(0.4, None), (0.4, 12), (0.2, None)])
def test_half_of_the_held_out_images_set_the_scale_and_the_others_decide(
    rate: float, tile: int | None, parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """Of five held-out images of each category, three set the scale and two decide. A rate of 0.2 needs four images to
    decide, so all images do both."""

    class Method(Scaled, brightness):  # type: ignore[misc]
        pass

    view = View((24, 36), tile=tile)
    model = Method(view)
    data = AnomalyDataModule(MVTec(parts), view, batch_size=4, split=Split(0.5), loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path, Calibration(rate))
    trainer.fit(model, data)
    decision = model.decision
    assert decision is not None
    halved = rate == 0.4
    assert {name: len(scores) for name, scores in decision.scores.items()} == dict.fromkeys(
        ("bolt", "nut"), 2 if halved else 5
    )
    assert {name: len(maxima) for name, maxima in decision.maxima.items()} == dict.fromkeys(
        ("bolt", "nut"), 2 if halved else 5
    )
    assert decision.scaled == (dict.fromkeys(("bolt", "nut"), 3) if halved else {})
    phrases = [] if halved else ["the scale of Method's scores (by calibrate)"]
    assert list(decision.also_chosen.values()) == [phrases, phrases]
    of_each = len(data.held_out_dataloader().dataset) // 10  # type: ignore[arg-type]  # tiles
    assert of_each == (1 if tile is None else 12) and len(model.seen) == (6 if halved else 10) * of_each
    trainer.validate(model, data, verbose=False)
    assert model.decision is not None and model.decision.to_dict() == decision.to_dict()
    told = summarize(decision)["thresholds"][0]
    assert told["exact"] == halved and told["scale_images"] == (3 if halved else 0)
    assert ("3 other held-out images set the scale of the maps." in told["guarantee"]) == halved
    assert Decision.from_dict(decision.to_dict()).scaled == decision.scaled
    assert ("6 other held-out" in describe_guarantee(decision)) == halved
