"""The keys `decision.pixel` and those beside it: by what rule pixels are called anomalous. Nothing but Python."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lit_ad.errors import UserError, check_number

PixelKind = Literal["image", "pixel", "region"]


@dataclass(frozen=True)
class PixelRule:
    """What the pixel threshold promises.

    Args:
        kind: Of what `decision.false_alarm` or `rate` is a rate. "image": of nominal images with any anomalous pixel.
            "region": of nominal images with an anomalous region of at least `area` pixels; smaller ones are not marked.
            "pixel": of nominal pixels.
        rate: Of nominal pixels, for "pixel". None: decision.false_alarm.
        area: In pixels of the image, for "region".
    """

    kind: PixelKind = "image"
    rate: float | None = None
    area: int | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < 1:
            raise UserError(f"decision.pixel_rate is a rate between 0 and 1, not {self.rate}")
        if self.area is not None:
            check_number("decision.area", self.area, least=1)

    def changed(self, kind: PixelKind | None = None, rate: float | None = None, area: int | None = None) -> "PixelRule":
        """The same with what is given in place of its own."""
        given = {"kind": kind, "rate": rate, "area": area}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(self, **changes)

    def check(self) -> None:
        """Raises UserError if a key is missing that another one needs, or has no effect beside it."""
        if self.kind == "region" and self.area is None:
            raise UserError("decision.pixel region needs decision.area: the pixels of the smallest region that counts")
        if self.rate is not None and self.kind != "pixel":
            raise UserError(f"decision.pixel_rate is for decision.pixel pixel, not {self.kind}: leave it out")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PixelRule":
        """The inverse of `to_dict`."""
        return cls(**values)
