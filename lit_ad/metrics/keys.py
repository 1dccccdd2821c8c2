"""Integers that sort like the float32 scores they come from, so that bins need no known range of scores."""

import numpy as np
from numpy.typing import NDArray

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


def ordered_scores(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The inverse of `ordered_keys`, any shape; keys beyond those of finite scores become infinite ones."""
    bits = (keys ^ np.uint32(0x80000000)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    scores = bits.view(np.float32)
    return np.where(np.isnan(scores), np.copysign(np.float32(np.inf), scores), scores)
