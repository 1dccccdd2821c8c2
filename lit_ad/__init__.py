"""Teacher-student image anomaly detection on PyTorch Lightning."""

__version__ = "0.2.0"

from lit_ad.detector.detector import Detector

__all__ = ["Detector", "__version__"]
