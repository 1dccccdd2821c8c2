"""The keys `decision.pixel` and those beside it: by what rule pixels are called anomalous. Nothing but Python."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lit_ad.errors import UserError, check_number

PixelKind = Literal["image", "pixel", "region"]
_FARTHEST = 1000  # pixels: a window of as many more on each side of an image must fit into memory
CleanUpKey = bool | dict[str, float]  # of decision.clean_up: on or off, or the fields of GivenCleanUp


@dataclass(frozen=True)
class GivenCleanUp:
    """What is given of a `CleanUp`, whose fields it has. None: it is learned from the held-out maps."""

    low: float | None = None
    reach: int | None = None
    closing: int | None = None
    holes: int | None = None
    area: int | None = None

    @classmethod
    def from_key(cls, value: Mapping[str, float]) -> "GivenCleanUp":
        """From the value of decision.clean_up. Raises UserError on what it does not have."""
        names = [field.name for field in fields(cls)]
        unknown = [name for name in value if name not in names]
        if unknown:
            raise UserError(f"decision.clean_up has no {', '.join(unknown)}, but {', '.join(names)}")
        least = {"reach": 0, "closing": 0, "holes": 0, "area": 1}
        for name, number in value.items():
            if not math.isfinite(number):
                raise UserError(f"decision.clean_up.{name} is {number:g}, but it must be a finite number")
        for name in (name for name in least if name in value):
            most = _FARTHEST if name in ("reach", "closing") else math.inf
            check_number(f"decision.clean_up.{name}", value[name], least=least[name], most=most)
            if value[name] != int(value[name]):
                raise UserError(f"decision.clean_up.{name} is a number of pixels, not {value[name]:g}")
        given: dict[str, Any] = {name: int(number) if name in least else number for name, number in value.items()}
        return cls(**given)


@dataclass(frozen=True)
class PixelRule:
    """What the pixel threshold promises.

    Args:
        kind: Of what `decision.false_alarm` or `rate` is a rate. "image": of nominal images with any anomalous pixel.
            "region": of nominal images with an anomalous region of at least `area` pixels; smaller ones are not marked.
            "pixel": of nominal pixels.
        rate: Of nominal pixels, for "pixel", and for where a region ends that is cleaned up. None:
            decision.false_alarm.
        area: In pixels of the image, for "region".
        clean_up: Whether marked pixels are cleaned up, and what is given of how. None: they are not.
    """

    kind: PixelKind = "image"
    rate: float | None = None
    area: int | None = None
    clean_up: GivenCleanUp | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < 1:
            raise UserError(f"decision.pixel_rate is a rate between 0 and 1, not {self.rate}")
        if self.area is not None:
            check_number("decision.area", self.area, least=1)

    def changed(
        self,
        kind: PixelKind | None = None,
        rate: float | None = None,
        area: int | None = None,
        clean_up: CleanUpKey | None = None,
    ) -> "PixelRule":
        """The same with what is given in place of its own; its own rate goes where the new rule takes none.

        Raises UserError on a clean-up that cannot be.
        """
        given = {"kind": kind, "rate": rate, "area": area}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if isinstance(clean_up, Mapping):
            changes["clean_up"] = GivenCleanUp.from_key(clean_up)
        elif clean_up is not None:
            changes["clean_up"] = GivenCleanUp() if clean_up else None
        rule = replace(self, **changes)
        return rule if rate is not None or rule.takes_rate else replace(rule, rate=None)

    @property
    def takes_rate(self) -> bool:
        """Whether a rate of nominal pixels has an effect."""
        return self.kind == "pixel" or self.clean_up is not None

    def check(self) -> None:
        """Raises UserError if a key is missing that another one needs, or has no effect beside it."""
        if self.kind == "region" and self.area is None:
            raise UserError("decision.pixel region needs decision.area: the pixels of the smallest region that counts")
        if self.rate is not None and not self.takes_rate:
            raise UserError(
                f"decision.pixel_rate is for decision.pixel pixel, or for decision.clean_up, and not for {self.kind} "
                "alone: leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PixelRule":
        """The inverse of `to_dict`."""
        clean_up = values.get("clean_up")
        return cls(**{**values, "clean_up": None if clean_up is None else GivenCleanUp(**clean_up)})
