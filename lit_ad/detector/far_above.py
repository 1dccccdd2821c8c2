"""Find held-out images whose scores lie far above all others: they may show a defect. NumPy only."""

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.thresholds import Floats

_LEAST = 15  # held-out images; of fewer, the highest score is often far above the others by chance
_SHARE = 20  # one image in this number may be far above the others
_GAP = 3  # times the distance from the median to the next score: the gap below scores that are far above


def count_far_above(scores: Floats) -> int:
    """Return how many of the highest scores lie far above all others, most often none.

    Between them and the next score is a gap, three times as wide as from there down to the median. In simulations,
    scores of one population had such a gap with these probabilities: of 20 and of 50 normal scores 0.2 and 0.0 %, of
    exponential ones 1.7 and 0.2 %.

    Args:
        scores: Held-out scores of a category, (n,), ascending.
    """
    if len(scores) < _LEAST:
        return 0
    median = scores[len(scores) // 2]
    counts = range(max(1, len(scores) // _SHARE), 0, -1)
    return next((n for n in counts if scores[-n] - scores[-n - 1] > _GAP * (scores[-n - 1] - median)), 0)


def describe_far_above(decision: Decision) -> list[str]:
    """Return a sentence for each category with held-out images whose scores lie far above all others."""
    lines = []
    for category, scores in decision.scores.items():
        count = count_far_above(scores)
        if not count:
            continue
        next_score = float(scores[-count - 1])
        kind = "nominal image" if decision.folds.get(category) else "held-out nominal image"
        place = f" of {category}" if len(decision.scores) > 1 else ""
        highest = decision.highest.get(category, ())  # of an earlier checkpoint, only images added since
        named = [f"{name} has {score:.3g}" for score, name in highest if score > next_score]
        which = f"{', '.join(named) or f'up to {scores[-1]:.3g}'}, and the next {next_score:.3g}"
        harm = (
            f"{'It sets' if count == 1 else 'They set'} the threshold, so that defects may be missed. "
            if decision.threshold(category) > next_score and category not in decision.by_hand
            else ""
        )
        lines.append(
            f"{count} of {format_count(len(scores), kind)}{place} {'scores' if count == 1 else 'score'} far above all "
            f"others: {which}. {harm}If "
            f"{'it shows' if count == 1 else 'they show'} a defect, move {'it' if count == 1 else 'them'} out of the "
            "good images and train again"
        )
    return lines
