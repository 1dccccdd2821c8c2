"""Values that may be None, where a test knows that they are not."""

from typing import TypeVar

T = TypeVar("T")


def unwrap(value: T | None) -> T:
    """Return the value, which must be there."""
    assert value is not None
    return value
