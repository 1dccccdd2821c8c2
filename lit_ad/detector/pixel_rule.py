"""The rule by which pixels are called anomalous: the key `decision.pixel` and the keys beside it. Plain Python only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lit_ad.errors import UserError, check_number

PixelKind = Literal["image", "pixel", "region"]
_FARTHEST = 1000  # pixels; an image padded by so many pixels on each side must fit into memory
_LARGEST = 10**9  # pixels of the largest image that is read: see lit_ad.image.limits
CleanUpKey = bool | dict[str, float]  # the value of decision.clean_up: on or off, or fields of GivenCleanUp


@dataclass(frozen=True)
class GivenCleanUp:
    """The settings of a `CleanUp` that the user gives. A field that is None is learned from the held-out maps."""

    low: float | None = None
    reach: int | None = None
    closing: int | None = None
    holes: int | None = None
    area: int | None = None

    @classmethod
    def from_key(cls, value: Mapping[str, float]) -> "GivenCleanUp":
        """Return the settings of a value of decision.clean_up.

        Raises:
            UserError: A name is not known, or a number is not finite, too low, too high or not whole.
        """
        names = [field.name for field in fields(cls)]
        unknown = [name for name in value if name not in names]
        if unknown:
            raise UserError(f"decision.clean_up has no {', '.join(unknown)}: its keys are {', '.join(names)}")
        least = {"reach": 0, "closing": 0, "holes": 0, "area": 1}
        for name, number in value.items():
            if not math.isfinite(number):
                raise UserError(f"decision.clean_up.{name} is {number:g}, but it must be a finite number")
        for name in (name for name in least if name in value):
            most = {"reach": _FARTHEST, "closing": _FARTHEST, "area": _LARGEST}.get(name, math.inf)
            check_number(f"decision.clean_up.{name}", value[name], least=least[name], most=most)
            if value[name] != int(value[name]):
                raise UserError(f"decision.clean_up.{name} is a whole number of pixels, not {value[name]:g}")
        given: dict[str, Any] = {name: int(number) if name in least else number for name, number in value.items()}
        return cls(**given)


@dataclass(frozen=True)
class PixelRule:
    """What the pixel threshold guarantees.

    Args:
        kind: What `decision.false_alarm` limits. "image": the share of nominal images with any anomalous pixel.
            "region": the share of nominal images with an anomalous region of at least `area` pixels; smaller regions
            are not marked. "pixel": the share of nominal pixels that are anomalous.
        rate: The share of nominal pixels above the threshold of "pixel", or above the lower threshold of a clean-up.
            None: decision.false_alarm.
        area: The pixels of the smallest region that counts, for "region".
        clean_up: The settings of the clean-up of marked pixels. None: there is no clean-up.

    Raises:
        UserError: rate is not in (0, 1), or area is less than 1.
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

    def with_values(
        self,
        kind: PixelKind | None = None,
        rate: float | None = None,
        area: int | None = None,
        clean_up: CleanUpKey | None = None,
    ) -> "PixelRule":
        """Return this rule with other values for the arguments that are not None.

        The rule's own rate is dropped if the new rule uses no rate. Raises UserError if `clean_up` has a wrong key or
        value.
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
        """Raise UserError if a key is missing that another key needs, or if a key has no effect."""
        if self.kind == "region" and self.area is None:
            raise UserError("decision.pixel region needs decision.area: the pixels of the smallest region that counts")
        if self.rate is not None and not self.takes_rate:
            raise UserError(
                f"decision.pixel_rate is for decision.pixel pixel or for decision.clean_up, not for decision.pixel "
                f"{self.kind} alone: leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PixelRule":
        """Return the rule of `to_dict`'s values."""
        clean_up = values.get("clean_up")
        return cls(**{**values, "clean_up": None if clean_up is None else GivenCleanUp(**clean_up)})
