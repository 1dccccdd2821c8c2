"""Check the scores and the target of an image before they are counted."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class NotFinite(ValueError):
    """Scores that are NaN or infinite; the message names the image."""


def check_scores(scores: Tensor, target: Tensor, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return scores as float32 and the target as bool, both of the same shape.

    Raises:
        ValueError: Shapes differ, scores are not floating point, or a target is not 0 or 1. The message names the
            image.
        NotFinite: A score is NaN or infinite.
    """
    if scores.shape != target.shape:
        raise ValueError(f"{name}: scores have shape {tuple(scores.shape)}, the target {tuple(target.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"{name}: scores must be floating point, not {scores.dtype}")
    values = as_float32(scores)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise NotFinite(f"{name}: {bad} of {values.size} scores are NaN or infinite (as float32)")
    if target.dtype == torch.bool:
        return values, target.detach().cpu().contiguous().numpy()
    labels = target.detach().cpu().contiguous().numpy() if target.dtype != torch.bfloat16 else as_float32(target)
    mask: NDArray[np.bool_] = labels == 1
    if not np.all(mask | (labels == 0)):
        raise ValueError(f"{name}: the target must hold only 0 (nominal) and 1 (anomalous), not {_show_wrong(labels)}")
    return values, mask


def as_float32(scores: Tensor) -> NDArray[np.float32]:
    """Return scores as a contiguous float32 array on the CPU: half and bfloat16 exactly, float64 rounded, in the same
    order."""
    array: NDArray[np.float32] = scores.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _show_wrong(labels: NDArray[Any]) -> str:
    """Return the first values that are not 0 or 1, for a message."""
    wrong = np.unique(labels[(labels != 0) & (labels != 1)])
    return ", ".join(str(value) for value in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
