"""What a request to the service may bring, and how long it may take."""

from dataclasses import dataclass

from lit_ad.errors import check_number


@dataclass(frozen=True)
class Limits:
    """What a request may bring, and how long it may take.

    Args:
        mib: Of an image file.
        megapixels: Of an image.
        seconds: From the first byte of the image to the answer.

    Raises:
        UserError: A limit that is not above 0.
    """

    mib: float = 32
    megapixels: float = 100
    seconds: float = 60

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(f"limits.{name}", value, least=0, above=True)


LIMITS = Limits()
