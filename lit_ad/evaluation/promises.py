"""List what the thresholds of a test promise: rates of false alarms, and sentences."""

from typing import Any

from lit_ad.evaluation.results import Results


def list_thresholds(results: Results) -> list[dict[str, Any]]:
    """Return the thresholds of a test's decision, as detector.summary returns them."""
    thresholds: list[dict[str, Any]] = (results.decision or {}).get("thresholds", [])
    return thresholds


def list_kept_rates(results: Results) -> list[float]:
    """Return the false-alarm rates that the thresholds of the categories keep. Thresholds set by hand keep none."""
    thresholds = [each for each in list_thresholds(results) if not each["image"]["by_hand"]]
    of_categories = [each["kept_rate"] for each in thresholds if each["category"] is not None]
    return of_categories or [each["kept_rate"] for each in thresholds]


def describe_kept_rates(results: Results) -> str:
    """Return the lowest and the highest rate that the thresholds of a test keep, and the rate asked for if it is lower.

    The test has a threshold.
    """
    asked, pooled = results.false_alarm, results.kept_rate
    assert asked is not None and pooled is not None
    kept = list_kept_rates(results) or [pooled]
    told = f"{' to '.join(dict.fromkeys(f'{100 * rate:.3g}' for rate in (min(kept), max(kept))))} % false alarms"
    if max(kept) <= asked:
        return told
    return f"{told} (the lowest that the nominal images allow; {100 * asked:.3g} % was asked for)"


def list_guarantees(results: Results) -> list[str]:
    """Return sentences that say what the thresholds promise: first those of images, then those of pixels, each once.

    If they differ between categories, each begins with the names of its categories.
    """
    thresholds = list_thresholds(results)
    names: dict[str, list[str]] = {}
    for promises in (thresholds, [each.get("pixels") or {} for each in thresholds]):
        for threshold, promise in zip(thresholds, promises, strict=True):
            name = "images of another category, or of none" if threshold["category"] is None else threshold["category"]
            if sentence := promise.get("guarantee"):
                names.setdefault(sentence, []).append(name)
    every = len(thresholds)
    return [each if len(given) == every else f"{', '.join(given)}: {each}" for each, given in names.items()]
