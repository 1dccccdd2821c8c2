from lit_ad.callbacks.calibration import Calibration
from lit_ad.callbacks.dashboard import Dashboard
from lit_ad.callbacks.distilled_weights import DistilledWeights
from lit_ad.callbacks.evaluation import Evaluation
from lit_ad.callbacks.feature_cache import FeatureCache
from lit_ad.callbacks.heatmaps import Heatmaps
from lit_ad.callbacks.predictions import Predictions
from lit_ad.callbacks.processor_time import ProcessorTime
from lit_ad.callbacks.report import Report

__all__ = [
    "Calibration",
    "Dashboard",
    "DistilledWeights",
    "Evaluation",
    "FeatureCache",
    "Heatmaps",
    "Predictions",
    "ProcessorTime",
    "Report",
]
