"""Keys sort like the scores they come from, and give them back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_ad.metrics.keys import decode_keys, encode_scores

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(arrays(np.float32, st.integers(2, 50), elements=FLOATS))
def test_keys_sort_like_scores(scores: np.ndarray) -> None:
    keys = encode_scores(scores)
    assert np.array_equal(keys[:, None] < keys, scores[:, None] < scores)


def test_both_zeros_have_one_key_and_extremes_have_keys() -> None:
    big = np.finfo(np.float32).max
    keys = encode_scores(np.array([-big, -1e-45, -0.0, 0.0, 1e-45, big], np.float32))
    assert keys[2] == keys[3]
    assert len(set(keys.tolist())) == 5


@given(arrays(np.float32, st.integers(1, 50), elements=FLOATS))
def test_keys_give_back_their_scores(scores: np.ndarray) -> None:
    assert np.array_equal(decode_keys(encode_scores(scores)), scores)


def test_keys_beyond_those_of_finite_scores_are_infinite() -> None:
    assert decode_keys(np.array([0, 2**32 - 1], np.uint32)).tolist() == [-np.inf, np.inf]
