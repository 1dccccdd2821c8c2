"""The mean loss of one process. test_distributed.py has that of several."""

import math

import torch

from lit_ad.shared_mean import SharedMean


def test_the_shared_mean_of_one_process() -> None:
    mean = SharedMean()
    assert mean(torch.tensor(2.0), weight=3).item() == 2.0
    mean.update(torch.tensor(4.0), weight=1)
    assert mean.compute().item() == 2.5
    assert math.isnan(mean(torch.tensor(math.nan), weight=1))  # what has diverged is seen
