"""Reference metrics: exact or with a computed error bound, bounded in memory, and equal on any number of processes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_ad.metrics.aupimo import AUPIMO
    from lit_ad.metrics.aupro import AUPRO, AUPROBySize
    from lit_ad.metrics.checks import NotFinite
    from lit_ad.metrics.groups import ImageEvaluation, PixelEvaluation
    from lit_ad.metrics.image import ImageAUROC, ImageAveragePrecision, ImageF1Max, sample_auroc
    from lit_ad.metrics.pixel import PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelPartialAUROC
    from lit_ad.metrics.spro import SPRO

__all__ = [
    "AUPIMO",
    "AUPRO",
    "SPRO",
    "AUPROBySize",
    "ImageAUROC",
    "ImageAveragePrecision",
    "ImageEvaluation",
    "ImageF1Max",
    "NotFinite",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelEvaluation",
    "PixelF1Max",
    "PixelPartialAUROC",
    "sample_auroc",
]


def __getattr__(name: str) -> Any:
    """Import a metric when it is first used: torchmetrics takes seconds, and a report's curves do not need it."""
    if name in __all__:
        for module in ("aupimo", "aupro", "groups", "image", "pixel", "spro", "checks"):
            metric = vars(import_module(f"{__name__}.{module}")).get(name)
            if metric is not None:
                return metric
    raise AttributeError(f"module {__name__} has no attribute {name}")
