"""Distances of feature maps that several methods use, at least in float32."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def unit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared distance of unit feature vectors, in float32: 2 x (B, C, h, w) -> (B, 1, h, w)."""
    teacher, student = normalize(teacher.float()), normalize(student.float())
    return (teacher - student).square().sum(dim=1, keepdim=True)


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """One minus the cosine over channels: 2 x (B, C, ...) -> (B, ...)."""
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    return 1 - cosine_similarity(teacher.to(dtype), student.to(dtype), dim=1)
