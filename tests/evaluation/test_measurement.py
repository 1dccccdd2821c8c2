"""A measurement of images with made-up judgements: every number is checked by scikit-learn or by counting."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from lit_ad.batch import Sample
from lit_ad.detector.decision import Decision
from lit_ad.detector.marking import Marking
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.measurement import Measurement, compute_sample_aurocs, resize
from lit_ad.evaluation.official_scores import OfficialScores
from lit_ad.evaluation.protocols import Rules
from lit_ad.evaluation.results import ImageResult, Results
from lit_ad.evaluation.rows import group_rows
from lit_ad.image.roi import Roi
from lit_ad.metrics.instances import match_regions
from tests.optional import unwrap

SIZE = (6, 8)
GENERATOR = np.random.default_rng(0)
LIMITS = {"bolt": 0.6, "nut": 0.8}  # of pixels
DECISION = Decision({"bolt": np.array([0.5]), "nut": np.array([0.9])}, {c: np.array([v]) for c, v in LIMITS.items()})


def judged(place: int, category: str, defect: str, with_map: bool = True, roi: Roi | None = None) -> Judged:
    """An image with a random map, whose maximum is its score, and a random truth where there is a defect."""
    label = int(defect != "good")
    size = SIZE if roi is None else roi.shape  # of what the network sees
    seen = GENERATOR.random(size).astype(np.float32)
    truth = (GENERATOR.random(SIZE) > 0.7) & bool(label)
    score = float(seen.max())
    judgement = Judgement(seen if with_map else None, score, (0, 0, *size), {"teacher": 1 - score})
    return Judged(
        Sample(Path(f"{place}.png"), label, category=category, defect=defect),
        place,
        SIZE,
        np.zeros((*SIZE, 3), np.uint8),
        judgement,
        truth,
        roi,
        threshold=DECISION.threshold(category),
        p_value=0.5,
        marking=Marking(LIMITS[category]),
    )


def above_limit(image: Judged) -> np.ndarray:
    """(H, W): which pixels of the map are above the limit of the image's category."""
    return unwrap(image.judgement.network_map) > LIMITS[image.sample.category]


@pytest.fixture
def images() -> list[Judged]:
    groups = [("bolt", "good"), ("bolt", "dent"), ("nut", "good"), ("nut", "dent"), ("nut", "hole")]
    return [judged(place, *groups[place % 5]) for place in range(20)]


def measure(images: list[Judged], decision: Decision | None = DECISION, **more: Any) -> Results:
    measurement = Measurement(**more)
    for start in range(0, len(images), 3):
        measurement.add_scores(images[start : start + 3])
        for image in images[start : start + 3]:
            measurement.add_pixels(image)
    return measurement.compute(decision)


def test_rows_against_scikit_learn(images: list[Judged]) -> None:
    results = measure(images)
    assert list(results.rows) == ["pooled", "mean", "bolt/", "bolt/dent", "nut/", "nut/dent", "nut/hole"]
    for row in ("pooled", "bolt/", "nut/", "nut/hole"):
        category, _, defect = row.partition("/")
        of_row = [
            image
            for image in images
            if row == "pooled"
            or (image.sample.category == category and (not defect or image.sample.defect in ("good", defect)))
        ]
        values, labels = results.rows[row], [image.sample.label for image in of_row]
        maps, truths = (np.ravel([getattr(image, name) for image in of_row]) for name in ("anomaly_map", "truth"))
        above = np.ravel([above_limit(image) for image in of_row])
        scores = np.array([image.score for image in of_row])
        assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert values["image_auroc_teacher"] == pytest.approx(roc_auc_score(labels, 1 - scores))
        assert values["pixel_auroc"] == pytest.approx(roc_auc_score(truths, maps), abs=1e-6)
        assert values["pixel_f1"] == pytest.approx(f1_score(truths, above))
        each = [f1_score(np.ravel(unwrap(i.truth)), np.ravel(above_limit(i))) for i in of_row if unwrap(i.truth).any()]
        assert values["pixel_f1_by_image"] == pytest.approx(np.mean(each))
        assert (values["instance_recall"], values["instance_precision"]) == pytest.approx(instances(of_row))
        assert values["aupimo"] == pytest.approx(aupimo(of_row))
        shares = [above_limit(image).mean() for image in of_row if not image.sample.label]
        assert values["nominal_share_marked"] == pytest.approx(np.mean(shares))
        assert values["mask_false_alarms"] == np.count_nonzero(shares)
        assert values["pixel_false_positive_rate"] == pytest.approx(above[~truths].mean())
        wrong = [(i.score > unwrap(i.threshold)) != bool(i.sample.label) for i in of_row]
        of_label = [[each for each, label in zip(wrong, labels, strict=True) if label == kind] for kind in (0, 1)]
        assert [values["nominal_images"], values["anomalous_images"]] == [len(of_kind) for of_kind in of_label]
        assert [values["false_alarms"], values["misses"]] == [sum(of_kind) for of_kind in of_label]
        assert values["anomalous_pixels"] == truths.sum()
        assert values["nominal_pixels"] == (~truths).sum()
    of_both = [results.rows[row]["pixel_auroc"] for row in ("bolt/", "nut/")]
    assert results.rows["mean"]["pixel_auroc"] == pytest.approx(np.mean(of_both))


def aupimo(images: list[Judged]) -> float:
    """AUPIMO of small maps (a pixel is more than 1e-4 of them): the share of defects above all nominal pixels."""
    pairs = [(unwrap(image.judgement.network_map), unwrap(image.truth)) for image in images]
    highest = max(seen.max() for seen, truth in pairs if not truth.any())
    return float(np.mean([(seen[truth] > highest).mean() for seen, truth in pairs if truth.any()]))


def instances(images: list[Judged]) -> tuple[float, float]:
    matches = [match_regions(unwrap(image.truth), above_limit(image)) for image in images]
    found, marked = sum(one.hit.sum() for one in matches), sum(one.marked for one in matches)
    return found / sum(len(one.sizes) for one in matches), found / marked


def test_images_are_in_the_order_of_their_split(images: list[Judged]) -> None:
    """Processes and threads add them in another order."""
    results = measure(images[::-1])
    assert [image.path for image in results.images] == [f"{place}.png" for place in range(20)]
    assert [image.score for image in results.images] == [image.score for image in images]


def test_the_decision_is_in_the_results(images: list[Judged]) -> None:
    results = measure(images)
    assert (results.threshold, results.pixel_threshold, results.false_alarm) == (0.9, 0.8, 0.01)
    assert results.decision is not None and results.maps
    without = measure(images, None)
    assert (without.threshold, without.pixel_threshold, without.decision) == (None, None, None)
    assert math.isnan(without.rows["pooled"]["pixel_f1"])
    assert without.rows["pooled"]["pixel_auroc"] == results.rows["pooled"]["pixel_auroc"]


def test_pixels_without_a_map_or_a_truth_are_not_counted() -> None:
    scores_only = [judged(place, "bolt", defect, with_map=False) for place, defect in enumerate(("good", "dent"))]
    results = measure(scores_only)
    assert not results.maps
    assert results.rows["pooled"]["nominal_pixels"] == results.rows["pooled"]["anomalous_pixels"] == 0
    unmasked = judged(2, "bolt", "dent")
    object.__setattr__(unmasked, "truth", None)
    good = judged(3, "bolt", "good")
    results = measure([unmasked, good])
    assert results.maps
    assert results.rows["pooled"]["nominal_pixels"] == 48  # those of the good image
    assert results.rows["pooled"]["anomalous_pixels"] == 0


def test_pixels_outside_the_region_of_interest_are_not_counted() -> None:
    inside = np.zeros((3, 4), bool)
    inside[1, :3] = True
    roi = Roi((2, 1, 5, 5), inside, SIZE)
    images = [judged(place, "bolt", defect, roi=roi) for place, defect in enumerate((*["good"] * 6, *["dent"] * 8))]
    row = measure(images).rows["pooled"]
    truths = np.ravel([image.truth[3, 1:4] for image in images if image.truth is not None])
    maps = np.ravel([image.judgement.network_map[1, :3] for image in images if image.judgement.network_map is not None])
    assert (row["nominal_pixels"], row["anomalous_pixels"]) == ((~truths).sum(), truths.sum())
    assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truths, maps), abs=1e-6)
    above = maps > LIMITS["bolt"]
    assert row["pixel_f1"] == pytest.approx(f1_score(truths, above))
    pairs = [(truths[start : start + 3], above[start : start + 3]) for start in range(0, 42, 3)]  # of each image
    by_image = [f1_score(truth, marked) for truth, marked in pairs if truth.any()]
    assert row["pixel_f1_by_image"] == pytest.approx(np.mean(by_image))
    assert row["nominal_share_marked"] == pytest.approx(above[:18].mean()) != 0
    matches = [match_regions(truth[None], marked[None]) for truth, marked in pairs]
    assert row["instance_recall"] == sum(each.hit.sum() for each in matches) / sum(len(each.sizes) for each in matches)


def test_pixels_outside_a_box_are_not_counted() -> None:
    roi = Roi((2, 1, 5, 5))
    images = [judged(place, "bolt", defect, roi=roi) for place, defect in enumerate(("good", "good", *["dent"] * 4))]
    row = measure(images).rows["pooled"]
    truths = np.ravel([unwrap(image.truth)[2:5, 1:5] for image in images])
    maps = np.ravel([unwrap(image.judgement.network_map) for image in images])
    assert (row["nominal_pixels"], row["anomalous_pixels"]) == ((~truths).sum(), truths.sum())
    assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truths, maps), abs=1e-6)
    assert row["nominal_share_marked"] == pytest.approx((maps[:24] > LIMITS["bolt"]).mean())


def test_at_another_size_too_pixels_outside_the_region_of_interest_are_not_counted() -> None:
    inside = np.zeros((3, 4), bool)
    inside[1, :3] = True
    images = [judged(place, "bolt", "dent", roi=Roi((2, 1, 5, 5), inside, SIZE)) for place in range(20)]
    row = measure(images, eval_size=(3, 2)).rows["pooled"]
    small = [resize(i.inside_roi(unwrap(i.anomaly_map)), i.inside_roi(unwrap(i.truth)), (3, 2)) for i in images]
    maps, truths = (np.ravel([part[1] for part in parts]) for parts in zip(*small, strict=True))
    assert (row["nominal_pixels"], row["anomalous_pixels"]) == ((~truths).sum(), truths.sum())
    assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truths, maps), abs=1e-6)


def test_image_metrics_have_intervals_if_resamples_are_asked_for(images: list[Judged]) -> None:
    assert "image_auroc_low" not in measure(images).rows["pooled"]
    row = measure(images, bootstrap=50).rows["pooled"]
    assert row["image_auroc_low"] < row["image_auroc"] < row["image_auroc_high"]


def test_a_decision_without_a_pixel_threshold_gives_no_metrics_of_marked_pixels() -> None:
    """The maps come from a method that marks nothing, for example because no held-out image had a map."""
    unmarked = [replace(judged(place, "bolt", defect), marking=None) for place, defect in enumerate(("good", "dent"))]
    unmarked.append(replace(judged(2, "bolt", "dent", roi=Roi((2, 1, 5, 5))), marking=None))
    row = measure(unmarked, DECISION.without_maps()).rows["pooled"]
    names = ("pixel_f1", "pixel_iou", "pixel_recall", "pixel_false_positive_rate", "pixel_f1_by_image")
    assert all(math.isnan(row[name]) for name in (*names, "nominal_share_marked", "mask_false_alarms"))
    assert 0 <= row["pixel_auroc"] <= 1


def test_the_rules_of_a_data_set_see_each_image_with_its_map_and_its_marked_pixels(images: list[Judged]) -> None:
    rules = Rules("parts", {"class_f1": "F1 of the images with a marked pixel"}, ("class_f1",))
    results = measure(images, official=OfficialScores(rules))
    of_category = [image for image in images if image.sample.category == "nut"]
    called = [above_limit(image).any() for image in of_category]
    expected = f1_score([image.sample.label for image in of_category], called)
    assert unwrap(results.official).rows["nut/"]["class_f1"] == pytest.approx(expected)
    assert measure(images).official is None


def test_each_image_and_each_curve_is_in_the_results(images: list[Judged]) -> None:
    images = [replace(image, sample=image.sample._replace(item=f"part{image.index % 10}")) for image in images]
    results = measure(images)
    first = ImageResult("0.png", "bolt", "good", 0, images[0].score, 0.5, 0.5, "part0")
    assert results.images[0] == first and list(results.curves) == ["image_roc", "pixel_roc", "pro", "pimo", "instances"]
    higher_view = np.reshape([image.score for image in images], (2, 10)).max(axis=0)
    expected = roc_auc_score([image.sample.label for image in images[:10]], higher_view)
    assert results.rows["pooled"]["sample_auroc"] == pytest.approx(expected)


def test_another_size_takes_the_truth_at_the_centre_of_each_cell(images: list[Judged]) -> None:
    results = measure(images, eval_size=(3, 4))
    assert results.rows["pooled"]["nominal_pixels"] + results.rows["pooled"]["anomalous_pixels"] == 20 * 12
    assert results.rows["pooled"]["pixel_f1"] == measure(images).rows["pooled"]["pixel_f1"]  # at the original size
    truth = np.zeros((3, 9), bool)
    truth[1, [1, 4]] = True  # the centres of two of the cells 3 x 3
    anomaly_map = np.arange(27, dtype=np.float32).reshape(3, 9)
    small_map, small_truth = resize(anomaly_map, truth, (1, 3))
    assert small_truth.tolist() == [[True, True, False]]
    assert small_map.tolist() == [[10, 13, 16]]


def test_a_sample_counts_in_rows_with_all_its_views() -> None:
    """A part with a dent and a good view is no good sample in the row of another defect."""
    views = [
        ImageResult("1a", "nut", "good", 0, 0.9, item="1"),
        ImageResult("1b", "nut", "dent", 1, 0.2, item="1"),
        ImageResult("2a", "nut", "good", 0, 0.3, item="2"),
        ImageResult("2b", "nut", "good", 0, 0.1, item="2"),
        ImageResult("3a", "nut", "hole", 1, 0.8, item="3"),
        ImageResult("3b", "nut", "good", 0, 0.0, item="3"),
    ]
    rows = group_rows([("nut", "good"), ("nut", "dent"), ("nut", "hole")])
    found = compute_sample_aurocs(rows, views)
    # Each sample's score is its highest: 0.9 and 0.8 of the anomalous ones, 0.3 of the good one.
    assert found == {"pooled": 1.0, "nut/dent": 1.0, "nut/hole": 1.0}
    worse = [*views[:2], ImageResult("2a", "nut", "good", 0, 0.85, item="2"), *views[3:]]
    assert compute_sample_aurocs(rows, worse) == {"pooled": 0.5, "nut/dent": 1.0, "nut/hole": 0.0}
    single = [replace(view, item="1") for view in views]  # no row of a defect has all views of this one sample
    assert all(math.isnan(auroc) for auroc in compute_sample_aurocs(rows, single).values())
    alone = [ImageResult(view.path, "nut", view.defect, view.label, view.score) for view in views]
    assert compute_sample_aurocs(rows, alone) == {}  # each image is a sample of its own
