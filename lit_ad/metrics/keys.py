"""Integers that sort like the float32 scores they come from, so that bins need no known range of scores."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float32

KEY_BITS = 32


def ordered_keys(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Key of each finite float32 score, any shape: `a < b` exactly when `key(a) < key(b)`; -0.0 and 0.0 share one.

    Positive floats already sort by their bits; negative ones sort backwards, so theirs are flipped.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.view(np.uint32)
    keys ^= np.uint32(0x80000000)
    return keys


def as_float32(scores: Tensor) -> NDArray[np.float32]:
    """Scores as a contiguous float32 array on the CPU: half and bfloat16 exactly, float64 rounded (order kept)."""
    array: NDArray[np.float32] = scores.detach().to("cpu", float32).contiguous().numpy()
    return array
