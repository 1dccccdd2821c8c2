"""Settings of a source that are out of range are refused."""

import pytest

from lit_ad.errors import UserError
from lit_ad.line.feed import FeedSettings


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"feed.every is 0, but it must be above 0"):
        FeedSettings(every=0)
    with pytest.raises(UserError, match=r"feed.settle is -1"):
        FeedSettings(settle=-1)
