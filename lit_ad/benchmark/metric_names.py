"""Check the names of the metrics that a benchmark's tables are to have."""

from collections.abc import Sequence
from difflib import get_close_matches

from lit_ad.errors import UserError
from lit_ad.evaluation.results import SAMPLE_AUROC
from lit_ad.evaluation.rows import pixel_verdict_row, verdict_row


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise UserError on a metric that no test computes.

    Names that begin with official_ (a data set's own metrics) or image_auroc_ (parts of a method's score) pass, because
    they are known only after a test.
    """
    from lit_ad.metrics import AUPIMO, ImageEvaluation, PixelEvaluation  # import torchmetrics, which takes seconds
    from lit_ad.metrics.instances import Instances

    if not metrics:
        raise UserError("metrics is empty: give one or more, such as image_auroc")
    known = [*verdict_row([]), *pixel_verdict_row(0, 0, 0, 0), SAMPLE_AUROC]
    for rows in (ImageEvaluation(), PixelEvaluation(), AUPIMO(), Instances()):
        known += rows.compute_rows({"": set()})[""]
    for name in metrics:
        if name not in known and not name.startswith(("official_", "image_auroc_")):
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(known)}"
            raise UserError(f"there is no metric {name!r}: {hint}")
