"""Settings that make no sense are refused."""

import pytest

from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.errors import UserError


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="sample is 2"):
        JournalSettings(sample=2)
    with pytest.raises(UserError, match=r"anomalous_rate is 3, but it must be above 0 and at most 0\.999999"):
        JournalSettings(anomalous_rate=3)
    for mib in (-1, float("inf")):
        with pytest.raises(UserError, match=f"pictures_mib is {mib}"):
            JournalSettings(pictures_mib=mib)
