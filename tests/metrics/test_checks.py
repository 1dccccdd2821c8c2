"""Scores and targets of any dtype are taken, and wrong ones are refused."""

import numpy as np
import pytest
import torch

from lit_ad.metrics.checks import NotFinite, as_float32, check_scores


def test_scores_and_targets_of_any_dtype_are_taken() -> None:
    target = torch.tensor([0.0, 1.0])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for labels in (target, target.bool(), target.long(), target.bfloat16()):
            values, mask = check_scores(torch.tensor([0.5, 2.0], dtype=dtype), labels, "x")
            assert values.tolist() == [0.5, 2.0] and values.dtype == np.float32 and mask.tolist() == [False, True]
    with pytest.raises(NotFinite, match="x: 1 of 2 scores are NaN or infinite"):
        check_scores(torch.tensor([1e300, 0.0], dtype=torch.float64), target, "x")
    with pytest.raises(ValueError, match=r"and 1 \(anomalous\), not 2.0, 3.0, 4.0, \.\.\."):
        check_scores(torch.rand(4), torch.tensor([2.0, 3, 4, 5]), "x")


def test_half_and_bfloat16_are_exact() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        scores = torch.randn(100).to(dtype)
        assert torch.equal(torch.from_numpy(as_float32(scores)).to(dtype), scores)
