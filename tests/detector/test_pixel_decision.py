"""Each rule for pixels keeps its guarantee, by counts on new maps."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from lit_ad.detector.decision import Decision
from lit_ad.detector.decision_keys import DecisionKeys
from lit_ad.detector.held_out import HeldOutImages
from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
from lit_ad.errors import UserError

AREA = 6
RULES = {"image": PixelRule(), "region": PixelRule("region", area=AREA), "pixel": PixelRule("pixel", rate=0.02)}


def draw(generator: np.random.Generator, count: int) -> list[np.ndarray]:
    """Smooth maps, some of them noisier than others."""
    noise = generator.gamma(2, size=(count, 16, 16)) * np.exp(0.3 * generator.normal(size=(count, 1, 1)))
    return list(ndimage.gaussian_filter(noise, (0, 1, 1)).astype(np.float32))


def decide(maps: list[np.ndarray], rule: PixelRule, rate: float = 0.1, category: str = "") -> Decision:
    images = HeldOutImages(rule.area)
    for heat in maps:
        images.add(category, float(heat.max()), heat, None)
    return Decision(**images.held, false_alarm=rate, pixel_rule=rule)


@pytest.mark.parametrize("kind", RULES)
def test_new_nominal_images_keep_the_guarantee(kind: str) -> None:
    """The mean is over many draws of 19 held-out and 10 new maps. The rate is 10 % of images, or 2 % of pixels."""
    generator, rates = np.random.default_rng(0), []
    for _ in range(100):
        decision = decide(draw(generator, 19), RULES[kind])
        masks = [decision.mask(heat) for heat in draw(generator, 10)]
        rates.append(np.mean([mask.mean() if kind == "pixel" else mask.any() for mask in masks]))
    asked, error = (0.02 if kind == "pixel" else 0.1), 3 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= asked + error
    assert np.mean(rates) >= 0.8 * asked - error  # it is used up, too


def test_a_rule_that_allows_more_has_a_lower_threshold() -> None:
    maps = draw(np.random.default_rng(1), 19)
    image, region, pixel = (decide(maps, rule).pixel_threshold() for rule in RULES.values())
    assert region < image and pixel < image  # type: ignore[operator]
    assert image == sorted(float(heat.max()) for heat in maps)[-2]
    assert decide(maps, PixelRule("pixel", rate=1e-9)).pixel_threshold() == max(float(heat.max()) for heat in maps)


def test_images_above_a_threshold_are_counted_by_its_rule() -> None:
    maps = draw(np.random.default_rng(2), 19)
    for kind, rule in RULES.items():
        decision = decide(maps, rule)
        point = decision.pixel_operating_point()
        masks = [heat > decision.pixel_threshold() for heat in maps]
        assert point is not None and point.share == pytest.approx(np.mean(masks), abs=0.002)
        assert point.above == sum(decision.mask(heat).any() for heat in maps), kind
        assert not point.by_hand and decision.with_threshold(9, pixels=True).pixel_operating_point().by_hand  # type: ignore[union-attr]


def test_regions_of_fewer_pixels_are_not_marked() -> None:
    decision = decide(draw(np.random.default_rng(3), 19), RULES["region"])
    heat = np.zeros((16, 16), np.float32)
    heat[0:2, 0:3] = heat[8, 8:13] = 99  # 6 pixels, and 5
    assert decision.mask(heat).sum() == 6 and decision.marking().area == AREA  # type: ignore[union-attr]


def test_each_category_has_its_own_pixel_threshold() -> None:
    generator = np.random.default_rng(4)
    low, high = draw(generator, 9), [heat + 100 for heat in draw(generator, 9)]
    for rule in RULES.values():
        apart = [decide(maps, rule, category=name) for name, maps in (("a", low), ("b", high))]
        held: dict[str, Any] = {name: {**apart[0].held[name], **apart[1].held[name]} for name in apart[0].held}
        both = replace(apart[0], **held)
        assert [both.pixel_threshold(name) for name in "ab"] == [part.pixel_threshold() for part in apart]
        assert both.pixel_threshold("a") < 100 < both.pixel_threshold(None)  # type: ignore[operator]
        assert Decision.from_dict(json.loads(json.dumps(both.to_dict()))).to_dict() == both.to_dict()


def test_a_rule_that_the_held_out_images_do_not_allow() -> None:
    maps = draw(np.random.default_rng(5), 9)
    image = decide(maps, RULES["image"])
    with pytest.raises(UserError, match=r"peaks of held-out maps for regions of 6 pixels, and this model has not"):
        image.with_keys(DecisionKeys(pixel="region", area=AREA))
    with pytest.raises(UserError, match=r"regions of 7 pixels"):  # and not of 6
        decide(maps, RULES["region"]).with_keys(DecisionKeys(area=7))
    with pytest.raises(UserError, match=r"decision.area is for decision.pixel region, and not for image"):
        image.with_keys(DecisionKeys(area=7))
    with pytest.raises(UserError, match=r"decision.area is 300, but a nominal map has a connected region of that size"):
        decide(maps, PixelRule("region", area=300))  # more than the maps have
    with pytest.raises(UserError, match=r"decision.pixel_rate is 0.9, but"):
        image.with_keys(DecisionKeys(pixel="pixel", pixel_rate=0.9))
    with pytest.raises(UserError, match=r"decision.pixel pixel needs the pixels of held-out maps"):
        replace(image, pixels={}, pixel_rule=RULES["pixel"])  # as an earlier version left it
    with pytest.raises(UserError, match=r"are for anomaly maps, and the held-out images of this model had no"):
        Decision({"": np.ones(3)}, pixel_rule=RULES["pixel"])
    assert decide(maps, RULES["pixel"]).without_maps().pixel_threshold() is None


def test_a_clean_up_is_learned_from_the_held_out_maps() -> None:
    maps = draw(np.random.default_rng(6), 19)
    decision = decide(maps, PixelRule(rate=0.05, clean_up=GivenCleanUp()))
    marking = decision.marking()
    assert marking is not None and marking.clean_up is not None
    assert np.mean([(heat > marking.clean_up.low).mean() for heat in maps]) == pytest.approx(0.05, abs=0.003)
    grain = float(np.median(decision.grains[""]))
    assert (marking.clean_up.reach, marking.clean_up.closing) == (round(grain**0.5), round(grain**0.5 / 2))
    assert marking.clean_up.base == pytest.approx(np.median([np.median(heat) for heat in maps]))
    assert (marking.clean_up.holes, marking.clean_up.area) == (round(grain), round(grain))
    given = decision.with_keys(DecisionKeys(clean_up={"closing": 9, "low": 99.0})).marking()
    assert given is not None and given.clean_up is not None
    assert given.clean_up.closing == 9 and given.clean_up.holes == marking.clean_up.holes
    assert given.clean_up.low == given.threshold  # and no higher
    region = decide(maps, PixelRule("region", area=AREA, clean_up=GivenCleanUp())).marking()
    assert region is not None and region.clean_up is not None and region.clean_up.area == AREA


@pytest.mark.parametrize("kind", ["image", "region"])
def test_a_clean_up_does_not_change_the_rate_of_images(kind: str) -> None:
    maps, new = (draw(np.random.default_rng(seed), 19) for seed in (7, 8))
    plain = decide(maps, RULES[kind], 0.3)
    cleaned = plain.with_keys(DecisionKeys(clean_up={"area": 1}))
    masks = [(plain.mask(heat), cleaned.mask(heat)) for heat in new]
    assert [before.any() for before, _ in masks] == [after.any() for _, after in masks]
    without = plain.with_keys(DecisionKeys(clean_up={"area": 1, "reach": 0}))
    assert all((without.mask(heat) >= plain.mask(heat)).all() for heat in new)  # dropping halos may take marked pixels
    assert any((after > before).any() for before, after in masks)


def test_a_clean_up_needs_the_grains_and_pixels_of_held_out_maps() -> None:
    decision = decide(draw(np.random.default_rng(9), 9), PixelRule())
    with pytest.raises(
        UserError, match=r"decision.clean_up is learned from held-out maps, and this model has kept too"
    ):
        replace(decision, grains={}, pixel_rule=PixelRule(clean_up=GivenCleanUp()))


def test_a_region_does_not_grow_over_what_is_nominal() -> None:
    decision = decide(draw(np.random.default_rng(9), 9), PixelRule())
    median = float(np.median(decision.medians[""]))
    decision.with_keys(DecisionKeys(clean_up={"low": median + 0.01}))
    with pytest.raises(UserError, match=r"decision.clean_up.low is .* no higher than the median .* give a higher one"):
        decision.with_keys(DecisionKeys(clean_up={"low": median}))


def test_the_remedy_is_one_that_there_is() -> None:
    """recalibrate takes images of one category, which does not give all of several what a rule needs."""
    maps = draw(np.random.default_rng(5), 9)
    parts = [decide(maps, RULES["image"], category=name) for name in "ab"]
    held: dict[str, Any] = {name: {**parts[0].held[name], **parts[1].held[name]} for name in parts[0].held}
    for decision, remedy in ((parts[0], True), (replace(parts[0], **held), False)):
        with pytest.raises(UserError, match=r"train anew with decision.area 7") as refused:
            decision.with_keys(DecisionKeys(pixel="region", area=7))
        assert ("lit-ad recalibrate FILE --nominal FOLDER --replace --pixel region" in str(refused.value)) == remedy
