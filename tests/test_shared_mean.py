"""The mean loss; that of several processes is in test_distributed.py."""

import math

import torch

from lit_ad.shared_mean import SharedMean


def test_a_shared_mean_is_of_one_process_where_there_is_one() -> None:
    mean = SharedMean()
    assert mean(torch.tensor(2.0), weight=3).item() == 2.0
    mean.update(torch.tensor(4.0), weight=1)
    assert mean.compute().item() == 2.5
    assert math.isnan(mean(torch.tensor(math.nan), weight=1))  # what has diverged is seen
