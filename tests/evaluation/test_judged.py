"""A judged image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_ad.batch import Batch, Sample
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation.judged import content, judge_images
from lit_ad.image.view import View
from tests.optional import unwrap

HELD = {"bolt": np.arange(1.0, 100.0), "nut": np.arange(101.0, 200.0)}
DECISION = Decision(HELD, HELD, {category: scores / 10 for category, scores in HELD.items()}, false_alarm=0.05)
HEAT = np.zeros((20, 30), np.float32)
HEAT[2:4, 3:8], HEAT[10:15, 20:24] = 97, 250  # anomalous regions of a bolt; only the second one is anomalous on a nut


def batch(*categories: str) -> Batch:
    """Return random images of 20 x 30 pixels, one for each category. The first image alone has a truth."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(categories), 3, 20, 30)).astype(np.uint8))
    samples = [Sample(Path(f"{i}.png"), 1, None, name, "dent") for i, name in enumerate(categories)]
    masks = [torch.from_numpy(HEAT > 0), *[None] * (len(categories) - 1)]
    numbers, count = torch.arange(len(categories)) + 7, len(categories)
    return Batch(pixels, numbers, samples, [(20, 30)] * count, [(0, 0, 20, 30)] * count, masks=masks)


def judgement(score: float, heat: np.ndarray | None = HEAT) -> Judgement:
    return Judgement(heat, score, (0, 0, 20, 30))


def test_each_image_has_the_verdict_and_the_thresholds_of_its_category() -> None:
    images = batch("bolt", "nut")
    bolt, nut = judge_images([judgement(97.0), judgement(97.0)], images, DECISION, View(None, mm_per_pixel=0.5))
    assert (bolt.verdict, bolt.threshold, bolt.pixel_threshold, bolt.p_value) == ("anomalous", 95.0, 95.0, 0.04)
    assert (nut.verdict, nut.threshold, nut.pixel_threshold, nut.p_value) == ("nominal", 195.0, 195.0, 1.0)
    assert bolt.colour_range == DECISION.colour_range("bolt") != nut.colour_range == DECISION.colour_range("nut")
    assert (bolt.group, bolt.score, bolt.index, bolt.size) == ("bolt/dent", 97.0, 7, (20, 30))
    assert (nut.group, nut.index, nut.sample) == ("nut/dent", 8, images.samples[1])
    assert np.array_equal(unwrap(bolt.truth), HEAT > 0) and nut.truth is None
    assert np.array_equal(nut.pixels, unwrap(images.pixels)[1].permute(1, 2, 0).numpy())
    assert np.array_equal(unwrap(bolt.mask), HEAT > 0) and np.array_equal(unwrap(nut.mask), HEAT == 250)


def test_the_regions_of_an_image_are_measured_in_millimetres_and_the_highest_comes_first() -> None:
    (image,) = judge_images([judgement(97.0)], batch("bolt"), DECISION, View(None, mm_per_pixel=0.5))
    assert [region.box for region in image.regions] == [(10, 20, 15, 24), (2, 3, 4, 8)]
    assert [(region.peak, region.area_mm2) for region in image.regions] == [(250, 5.0), (97, 2.5)]


@pytest.mark.parametrize(("decision", "score"), [(None, 97.0), (DECISION, np.nan)])
def test_without_a_decision_or_a_finite_score_there_is_no_verdict(decision: Decision | None, score: float) -> None:
    images = batch("bolt")
    images.masks = None
    (image,) = judge_images([judgement(score)], images, decision, View(None, mm_per_pixel=0.5))
    assert (image.verdict, image.threshold, image.p_value, image.colour_range) == ("", None, None, None)
    assert image.pixel_threshold is None and image.mask is None and image.regions == [] and image.truth is None
    assert np.array_equal(unwrap(image.anomaly_map), HEAT)


def test_an_image_without_a_map_has_a_verdict_and_no_regions() -> None:
    (image,) = judge_images([judgement(97.0, None)], batch("bolt"), DECISION.without_maps(), View(None))
    assert (image.verdict, image.anomaly_map, image.mask, image.regions) == ("anomalous", None, None, [])
    (image,) = judge_images([judgement(97.0, None)], batch("bolt"), DECISION, View(None))
    assert image.mask is None and image.regions == []  # the decision has a pixel threshold all the same


def test_only_pixels_in_the_region_of_interest_are_marked() -> None:
    images, view = batch("bolt"), View(None, roi=(8, 10, 18, 30))
    images.pixels, images.boxes = unwrap(images.pixels)[:, :, 8:18, 10:], [(0, 0, 10, 20)]
    heat = HEAT[8:18, 10:] + np.float32(300)  # all of it is anomalous
    (image,) = judge_images([Judgement(heat, 300.0, (0, 0, 10, 20))], images, DECISION, view)
    expected = np.zeros((20, 30), bool)
    expected[8:18, 10:] = True
    assert unwrap(image.anomaly_map).shape == (20, 30) and np.array_equal(unwrap(image.mask), expected)
    assert np.array_equal(image.inside_roi(unwrap(image.anomaly_map)), heat)
    assert np.array_equal(image.inside_roi(HEAT), HEAT[8:18, 10:])


def test_without_a_region_of_interest_all_values_are_inside() -> None:
    (image,) = judge_images([judgement(97.0)], batch("bolt"), DECISION, View(None))
    assert np.array_equal(image.inside_roi(HEAT), HEAT)


def test_cropped_pixels_are_black() -> None:
    """The picture has the proportions of the complete image, as map and mask have."""
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3)).astype(np.uint8)
    pixels, box = View(32, crop=16)(image)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    batch = Batch(tensor, torch.arange(1), [Sample(Path("0.png"), 0)], [(32, 32)], [box])
    expected = np.zeros_like(image)
    expected[8:24, 8:24] = image[8:24, 8:24]
    assert np.array_equal(content(batch, 0), expected)
