"""Distances of feature pyramids in NumPy, as papers define them whose decoder restores the levels of a CNN."""

import numpy as np
from torch import Tensor

ArrayPairs = list[tuple[np.ndarray, np.ndarray]]


def as_arrays(pairs: list[tuple[Tensor, Tensor]]) -> ArrayPairs:
    """Convert target and student of each level to (B, C, h, w) in float64."""
    return [(target.detach().double().numpy(), student.detach().double().numpy()) for target, student in pairs]


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)))


def distances(target: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Compute one minus the cosine at each point: 2 x (B, C, h, w) -> (B, h, w)."""
    cosine = (target * student).sum(1) / np.linalg.norm(target, axis=1) / np.linalg.norm(student, axis=1)
    return np.asarray(1 - cosine)


def stretched(level: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bilinearly so that corners stay corners: (h, w) -> size."""
    height, width = level.shape
    rows, columns = np.linspace(0, height - 1, size[0]), np.linspace(0, width - 1, size[1])
    wide = np.stack([np.interp(columns, np.arange(width), row) for row in level])
    return np.stack([np.interp(rows, np.arange(height), column) for column in wide.T]).T


def stretched_distances(pairs: ArrayPairs, size: tuple[int, int]) -> np.ndarray:
    """Compute the distances of each level at one size: (L, B, *size)."""
    return np.array([[stretched(image, size) for image in distances(t, s)] for t, s in pairs])
