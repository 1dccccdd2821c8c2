from lit_ad.callbacks.dashboard import Dashboard
from lit_ad.callbacks.evaluation import Evaluation
from lit_ad.callbacks.heatmaps import Heatmaps
from lit_ad.callbacks.interruption import Interruption
from lit_ad.callbacks.predictions import Predictions

__all__ = ["Dashboard", "Evaluation", "Heatmaps", "Interruption", "Predictions"]
