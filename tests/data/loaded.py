"""Helpers that make a DataModule with any settings and that list the indices of a loader."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from lit_ad.batch import Batch
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.image.view import View


def module(root: Path, view: View, **settings: Any) -> AnomalyDataModule:
    """Make a DataModule with these settings: arguments of the DataModule or fields of `loading`."""
    loading = {field.name: settings.pop(field.name) for field in fields(Loading) if field.name in settings}
    return AnomalyDataModule(MVTec(root), view, **settings, loading=Loading(**loading))


def order(loader: Iterable[Batch]) -> list[int]:
    return [i for batch in loader for i in batch.index.tolist()]
