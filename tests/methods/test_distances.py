"""These tests compare distances of feature maps with distances computed by hand."""

import numpy as np
import pytest
import torch

from lit_ad.methods.distances import measure_cosine_distance, measure_unit_distance


def test_unit_distance_equals_the_formula() -> None:
    teacher, student = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    # (0.6, 0.8) against (0, 1): 0.36 + 0.04
    assert measure_unit_distance(teacher, student).item() == pytest.approx(0.4, rel=1e-6)
    assert measure_unit_distance(teacher.bfloat16(), student.bfloat16()).dtype == torch.float32


def test_cosine_distance_equals_the_formula() -> None:
    teacher, student = (torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    found = measure_cosine_distance(teacher, student)
    assert found.shape == (2, 3, 4)
    for place in np.ndindex(2, 3, 4):
        t, s = (x[place[0], :, place[1], place[2]].double().numpy() for x in (teacher, student))
        assert found[place].item() == pytest.approx(1 - t @ s / np.linalg.norm(t) / np.linalg.norm(s), abs=1e-6)
    assert measure_cosine_distance(teacher.half(), student.half()).dtype == torch.float32
    assert measure_cosine_distance(teacher.double(), student.double()).dtype == torch.float64
