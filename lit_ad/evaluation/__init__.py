"""Measure a detector on test images, and show the results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_ad.evaluation.callback import Evaluation
    from lit_ad.evaluation.prototypes import PrototypePictures
    from lit_ad.evaluation.sinks.dashboard import Dashboard
    from lit_ad.evaluation.sinks.heatmaps import Heatmaps
    from lit_ad.evaluation.sinks.predictions import Predictions
    from lit_ad.evaluation.sinks.report import Report

__all__ = ["Dashboard", "Evaluation", "Heatmaps", "Predictions", "PrototypePictures", "Report"]
MODULES = {
    "Dashboard": "sinks.dashboard",
    "Evaluation": "callback",
    "Heatmaps": "sinks.heatmaps",
    "Predictions": "sinks.predictions",
    "PrototypePictures": "prototypes",
    "Report": "sinks.report",
}


def __getattr__(name: str) -> Any:
    """Import a class at its first use: torch and Lightning take seconds, and parts of this package need neither."""
    if name in MODULES:
        return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
