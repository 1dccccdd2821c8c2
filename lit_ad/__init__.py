"""Teacher-student image anomaly detection on PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_ad.version import __version__

if TYPE_CHECKING:
    from lit_ad.batch import Batch, Prediction
    from lit_ad.data import (
        BTAD,
        MPDD,
        AnomalyDataModule,
        Corruption,
        CutPaste,
        Demo,
        Folder,
        Images,
        Journal,
        KolektorSDD,
        KolektorSDD2,
        Light,
        Loading,
        MVTec,
        MVTecAD2,
        MVTecLOCO,
        OneClass,
        Perlin,
        Photographs,
        RealIAD,
        Sample,
        Source,
        Split,
        Table,
        VisA,
    )
    from lit_ad.detector.detection import Detection
    from lit_ad.detector.detector import Detector
    from lit_ad.errors import UserError
    from lit_ad.evaluation import Dashboard, Evaluation, Heatmaps, Predictions, PrototypePictures, Report
    from lit_ad.image.view import View
    from lit_ad.methods import (
        DCAM,
        DSKD,
        L2BT,
        MKD,
        STFPM,
        DeSTSeg,
        Dinomaly,
        EfficientAD,
        FoundAD,
        INPFormer,
        MixedTeacher,
        ReContrast,
        ReverseDistillation,
        Transformaly,
    )
    from lit_ad.methods.base import Method
    from lit_ad.metrics import (
        AUPIMO,
        AUPRO,
        SPRO,
        AUPROBySize,
        ImageAUROC,
        ImageAveragePrecision,
        ImageEvaluation,
        ImageF1Max,
        NotFinite,
        PixelAUROC,
        PixelAveragePrecision,
        PixelEvaluation,
        PixelF1Max,
        PixelPartialAUROC,
        sample_auroc,
    )
    from lit_ad.run import Run, fit
    from lit_ad.teachers import Teacher
    from lit_ad.training import Calibration, DistilledWeights, FeatureCache, Resumption


__all__ = [
    "AUPIMO",
    "AUPRO",
    "BTAD",
    "DCAM",
    "DSKD",
    "L2BT",
    "MKD",
    "MPDD",
    "SPRO",
    "STFPM",
    "AUPROBySize",
    "AnomalyDataModule",
    "Batch",
    "Calibration",
    "Corruption",
    "CutPaste",
    "Dashboard",
    "DeSTSeg",
    "Demo",
    "Detection",
    "Detector",
    "Dinomaly",
    "DistilledWeights",
    "EfficientAD",
    "Evaluation",
    "FeatureCache",
    "Folder",
    "FoundAD",
    "Heatmaps",
    "INPFormer",
    "ImageAUROC",
    "ImageAveragePrecision",
    "ImageEvaluation",
    "ImageF1Max",
    "Images",
    "Journal",
    "KolektorSDD",
    "KolektorSDD2",
    "Light",
    "Loading",
    "MVTec",
    "MVTecAD2",
    "MVTecLOCO",
    "Method",
    "MixedTeacher",
    "NotFinite",
    "OneClass",
    "Perlin",
    "Photographs",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelEvaluation",
    "PixelF1Max",
    "PixelPartialAUROC",
    "Prediction",
    "Predictions",
    "PrototypePictures",
    "ReContrast",
    "RealIAD",
    "Report",
    "Resumption",
    "ReverseDistillation",
    "Run",
    "Sample",
    "Source",
    "Split",
    "Table",
    "Teacher",
    "Transformaly",
    "UserError",
    "View",
    "VisA",
    "__version__",
    "fit",
    "sample_auroc",
]
_ROOMS = ("data", "evaluation", "training", "metrics", "methods")  # all public names of these packages are names here
_MODULES = {
    "Batch": "batch",
    "Detection": "detector.detection",
    "Detector": "detector.detector",
    "Method": "methods.base",
    "Prediction": "batch",
    "Run": "run",
    "Teacher": "teachers",
    "UserError": "errors",
    "View": "image.view",
    "fit": "run",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and Lightning take seconds, and a detector on ONNX Runtime needs
    neither."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    for room in _ROOMS if name in __all__ else ():
        module = import_module(f"{__name__}.{room}")
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
