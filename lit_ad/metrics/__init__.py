"""Metrics to check others against: exact or with a computed error bound, bounded in memory, equal on any processes."""

from lit_ad.metrics.aupro import AUPRO, AUPROBySize
from lit_ad.metrics.groups import ImageEvaluation, PixelEvaluation
from lit_ad.metrics.image import ImageAUROC, ImageAveragePrecision, ImageF1Max, sample_auroc
from lit_ad.metrics.pixel import PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelPartialAUROC
from lit_ad.metrics.spro import SPRO
from lit_ad.metrics.state import NotFinite

__all__ = [
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
