"""Limits that make no sense are refused; test_serve.py holds the service to those that do."""

import pytest

from lit_ad.deploy.limits import Limits
from lit_ad.errors import UserError


@pytest.mark.parametrize("name", ["mib", "megapixels", "seconds"])
def test_a_limit_is_above_0(name: str) -> None:
    with pytest.raises(UserError, match=f"limits.{name} is 0, but it must be above 0"):
        Limits(**{name: 0})
    with pytest.raises(UserError, match=f"limits.{name} is inf, but it must be above 0 and at most 1000000000"):
        Limits(**{name: float("inf")})
