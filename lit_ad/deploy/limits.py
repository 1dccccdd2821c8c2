"""Limits of a request to the service: the size of the image, and the time for an answer."""

from dataclasses import dataclass

from lit_ad.errors import check_number


@dataclass(frozen=True)
class Limits:
    """Limits of a request to the service.

    Args:
        mib: The largest image file, in MiB.
        megapixels: The largest image, in millions of pixels.
        seconds: The longest time from the first byte of the image to the answer, in seconds.

    Raises:
        UserError: A limit is not above 0, or infinite.
    """

    mib: float = 32
    megapixels: float = 100
    seconds: float = 60

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(f"limits.{name}", value, least=0, most=1e9, above=True)


LIMITS = Limits()
