"""Teacher-student image anomaly detection on PyTorch Lightning."""

__version__ = "0.2.0"

from lit_ad.detector.detector import Detector
from lit_ad.run import Run, fit

__all__ = ["Detector", "Run", "__version__", "fit"]
