import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_ad.metrics.keys import as_float32, ordered_keys

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(arrays(np.float32, st.integers(2, 50), elements=FLOATS))
def test_keys_sort_like_scores(scores: np.ndarray) -> None:
    keys = ordered_keys(scores)
    assert np.array_equal(keys[:, None] < keys, scores[:, None] < scores)


def test_zeros_share_a_key_and_extremes_have_one() -> None:
    big = np.finfo(np.float32).max
    keys = ordered_keys(np.array([-big, -1e-45, -0.0, 0.0, 1e-45, big], np.float32))
    assert keys[2] == keys[3]
    assert len(set(keys.tolist())) == 5


def test_half_and_bfloat16_are_exact() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        scores = torch.randn(100).to(dtype)
        assert torch.equal(torch.from_numpy(as_float32(scores)).to(dtype), scores)
