"""Callbacks for the training of a method: calibration, feature cache, checkpoints, interruption."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_ad.training.calibration import Calibration
    from lit_ad.training.distilled_weights import DistilledWeights
    from lit_ad.training.feature_cache import FeatureCache
    from lit_ad.training.resumption import Resumption

__all__ = ["Calibration", "DistilledWeights", "FeatureCache", "Resumption"]
MODULES = {
    "Calibration": "calibration",
    "DistilledWeights": "distilled_weights",
    "FeatureCache": "feature_cache",
    "Resumption": "resumption",
}


def __getattr__(name: str) -> Any:
    """Import a class at its first use: torch and Lightning take seconds, and parts of this package need neither."""
    if name in MODULES:
        return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
