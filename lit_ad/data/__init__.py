"""Sources list images, AnomalyDataModule loads them."""

from typing import TYPE_CHECKING, Any

from lit_ad.batch import Sample
from lit_ad.data.corrupt import Corruption, CutPaste, Perlin
from lit_ad.data.sources.btad import BTAD
from lit_ad.data.sources.demo import Demo
from lit_ad.data.sources.folder import Folder
from lit_ad.data.sources.images import Images
from lit_ad.data.sources.journal import Journal
from lit_ad.data.sources.kolektor import KolektorSDD, KolektorSDD2
from lit_ad.data.sources.mpdd import MPDD
from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.mvtec_ad2 import MVTecAD2
from lit_ad.data.sources.mvtec_loco import MVTecLOCO
from lit_ad.data.sources.one_class import OneClass
from lit_ad.data.sources.photographs import Photographs
from lit_ad.data.sources.real_iad import RealIAD
from lit_ad.data.sources.source import Source
from lit_ad.data.sources.table import Table
from lit_ad.data.sources.visa import VisA
from lit_ad.data.splits import Split

if TYPE_CHECKING:
    from lit_ad.data.datamodule import AnomalyDataModule
    from lit_ad.data.light import Light
    from lit_ad.data.loading import Loading

__all__ = [
    "BTAD",
    "MPDD",
    "AnomalyDataModule",
    "Corruption",
    "CutPaste",
    "Demo",
    "Folder",
    "Images",
    "Journal",
    "KolektorSDD",
    "KolektorSDD2",
    "Light",
    "Loading",
    "MVTec",
    "MVTecAD2",
    "MVTecLOCO",
    "OneClass",
    "Perlin",
    "Photographs",
    "RealIAD",
    "Sample",
    "Source",
    "Split",
    "Table",
    "VisA",
]


def __getattr__(name: str) -> Any:
    """Import a class at its first use if it needs Lightning or albumentations, which take seconds to import."""
    if name == "AnomalyDataModule":
        from lit_ad.data.datamodule import AnomalyDataModule

        return AnomalyDataModule
    if name == "Light":
        from lit_ad.data.light import Light

        return Light
    if name == "Loading":
        from lit_ad.data.loading import Loading

        return Loading
    raise AttributeError(f"module {__name__} has no attribute {name}")
