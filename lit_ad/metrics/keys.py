"""Turn float32 scores into integers that sort in the same way, so that histograms need no known range of scores."""

import numpy as np
from numpy.typing import NDArray

KEY_BITS = 32


def encode_scores(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the key of each finite score, in any shape: `key(a) < key(b)` exactly if `a < b`; -0.0 is 0.0.

    The bits of positive floats sort like the floats. Those of negative floats sort backwards, so they are flipped.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.view(np.uint32)
    keys ^= np.uint32(0x80000000)
    return keys


def decode_keys(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return the score of each key of `encode_scores`, in any shape. Keys beyond those of finite scores become
    infinite."""
    bits = (keys ^ np.uint32(0x80000000)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    scores = bits.view(np.float32)
    return np.where(np.isnan(scores), np.copysign(np.float32(np.inf), scores), scores)
