"""Distances between feature maps that several methods use, computed in float32 or float64."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def unit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared distance between the unit vectors of each position, in float32: 2 x (B, C, h, w) -> (B, 1, h, w)."""
    teacher, student = normalize(teacher.float()), normalize(student.float())
    return (teacher - student).square().sum(dim=1, keepdim=True)


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """One minus the cosine over channels: 2 x (B, C, ...) -> (B, ...)."""
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    return 1 - cosine_similarity(teacher.to(dtype), student.to(dtype), dim=1)
