"""Distances between feature maps that several methods use, computed in float32 or float64."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def measure_unit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the squared distance of unit vectors at each position, in float32: 2 x (B, C, h, w) -> (B, 1, h, w)."""
    teacher, student = normalize(teacher.float()), normalize(student.float())
    return (teacher - student).square().sum(dim=1, keepdim=True)


def measure_cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return one minus the cosine over channels: 2 x (B, C, ...) -> (B, ...)."""
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    return 1 - cosine_similarity(teacher.to(dtype), student.to(dtype), dim=1)
