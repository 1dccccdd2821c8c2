"""Thresholds, p-values, masks and regions, against counting by hand and OpenCV."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ad.detector.decision import Decision, regions
from lit_ad.errors import NotFiniteError, UserError

SCORES = st.lists(st.integers(0, 30).map(float), min_size=1, max_size=60)


def of(scores: list[float], rate: float = 0.01, **more: dict[str, list[float]]) -> Decision:
    return Decision({"a": np.array(scores)}, **more, false_alarm=rate)  # type: ignore[arg-type]


@given(SCORES, st.floats(0.001, 0.6), st.integers(-1, 31).map(float))
@settings(deadline=None)
def test_an_image_is_anomalous_where_its_p_value_allows(held: list[float], rate: float, score: float) -> None:
    decision = of(held, rate)
    p = (1 + sum(one >= score for one in held)) / (len(held) + 1)
    assert decision.p_value(score) == pytest.approx(p)
    possible = rate >= 1 / (len(held) + 1)
    assert decision.anomalous(score) == (p <= rate if possible else score > max(held))


def test_false_alarms_stay_below_the_rate() -> None:
    """Over many draws of held-out and new nominal images, of a skewed distribution."""
    generator = np.random.default_rng(0)
    for n, rate in ((99, 0.01), (40, 0.05), (150, 0.1), (19, 0.05)):
        draws = generator.lognormal(size=(20_000, n + 1))
        alarms = np.mean([row[n] > of(row[:n].tolist(), rate).threshold() for row in draws[:4000]])
        exact = np.floor(rate * (n + 1)) / (n + 1)  # split conformal's
        assert alarms <= rate + 3 * np.sqrt(rate / 4000)
        assert alarms == pytest.approx(exact, abs=3 * np.sqrt(exact / 4000))


def test_too_few_held_out_images_are_told() -> None:
    decision = of([3.0, 1.0, 2.0], 0.01)
    assert decision.threshold() == 3
    assert decision.smallest_rate() == 0.25
    (said,) = decision.warnings()
    assert said.startswith("3 held-out nominal images allow a false-alarm rate of 0.25 and no lower")
    assert "hold out 99 or more" in said
    assert of(list(range(99)), 0.01).warnings() == []
    assert of(list(range(98)), 0.01).warnings() != []


def test_the_threshold_is_no_other_quantile() -> None:
    held = [float(i) for i in range(199)]
    assert of(held, 0.01).threshold() == 197  # one of 200 may lie at or above
    assert of(held, 0.5).threshold() == 99
    assert of(held, 0.01).with_rate(0.5).threshold() == 99


def test_each_category_has_its_own() -> None:
    decision = Decision({"a": [1.0, 2.0], "b": [10.0, 20.0, 30.0]}, {"a": [3.0, 4.0], "b": [50.0]}, {"a": [1.0]}, 0.01)  # type: ignore[dict-item]
    assert [decision.threshold(c) for c in ("a", "b", None, "c")] == [2, 30, 30, 30]
    assert [decision.pixel_threshold(c) for c in ("a", "b", None)] == [4, 50, 50]
    assert decision.p_value(15.0, "a") == pytest.approx(1 / 3)
    assert decision.p_value(15.0, "b") == pytest.approx(3 / 4)
    assert decision.p_value(15.0) == pytest.approx(3 / 6)
    assert decision.verdict(15.0, "a") == "anomalous"
    assert decision.verdict(15.0, "b") == "nominal"
    assert decision.p_value(np.array([0.0, 99.0]), "a").tolist() == pytest.approx([1, 1 / 3])


def test_pixels_and_colours() -> None:
    decision = of([1.0], maxima={"a": [4.0, 8.0]}, medians={"a": [1.0, 2.0, 9.0]})  # type: ignore[arg-type]
    assert decision.pixel_threshold() == 8
    assert decision.colour_range() == (2, 14)
    assert decision.mask(np.array([[8.0, 8.5]], np.float32)).tolist() == [[False, True]]
    image_level = of([1.0])
    assert image_level.pixel_threshold() is None
    assert image_level.colour_range() is None
    with pytest.raises(UserError, match="no pixel threshold"):
        image_level.mask(np.zeros((1, 1), np.float32))


def test_what_is_no_decision() -> None:
    with pytest.raises(UserError, match=r"false_alarm is a rate between 0 and 1, not 1"):
        of([1.0], 1.0)
    with pytest.raises(UserError, match="there are none"):
        Decision({})
    with pytest.raises(UserError, match=r"held-out nominal images of a have scores that are NaN"):
        of([1.0, float("nan")])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_judged(value: float) -> None:
    decision = of([1.0, 2.0], maxima={"a": [4.0, 8.0]})  # type: ignore[arg-type]
    for judge in (decision.p_value, decision.anomalous, decision.verdict):
        with pytest.raises(NotFiniteError, match=r"^the image: its score or anomaly map is NaN or infinite"):
            judge(value)
    with pytest.raises(NotFiniteError):
        decision.p_value(np.array([1.0, value]))
    with pytest.raises(NotFiniteError):
        decision.mask(np.array([[9.0, value]], np.float32))
    for name in ("scores", "maxima", "medians"):
        with pytest.raises(UserError, match=f"held-out nominal images of a have {name} that are NaN or infinite"):
            Decision(**{"scores": {"a": np.ones(2)}, name: {"a": np.array([1.0, value])}})


def test_to_json_and_back() -> None:
    decision = Decision({"b": [3.0, 1.0], "a": [2.0]}, {"a": [5.0]}, {"a": [0.1]}, 0.2)  # type: ignore[dict-item]
    again = Decision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again.to_dict() == decision.to_dict()
    assert again.threshold("b") == decision.threshold("b") == 3


@given(st.integers(0, 2**32), st.floats(0.02, 0.7))
@settings(deadline=None, max_examples=60)
def test_regions_are_opencvs(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((int(generator.integers(1, 24)), int(generator.integers(1, 24)))) < share
    heat = generator.random(mask.shape).astype(np.float32)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    expected = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        expected.append((-float(heat[labels == label].max()), (top, left, top + height, left + width), area))
    found = regions(mask, heat)
    assert [(-one.peak, one.box, one.area) for one in found] == sorted(expected)
