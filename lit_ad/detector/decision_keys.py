"""The settings of a decision, and the keys by which all commands change them. Plain Python only."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lit_ad.detector.pixel_rule import CleanUpKey, PixelKind, PixelRule


@dataclass(frozen=True)
class DecisionKeys:
    """The keys that change a decision without a training.

    Args:
        false_alarm: The rate of nominal images that may be called anomalous. None: unchanged.
        confidence: The probability, such as 0.95, that the rate of this detector is at most `false_alarm`. 0: no
            confidence, so that the rate holds on average. None: unchanged.
        pixel: The rule by which pixels are called anomalous, see lit-ad fit --help. None: unchanged.
        pixel_rate: The rate of nominal pixels above a threshold (`PixelRule.rate`). None: unchanged.
        area: The pixels of the smallest region that counts, if `pixel` is "region". None: unchanged.
        clean_up: Whether anomalous pixels grow to the outline of a defect, see lit-ad fit --help. None: unchanged.
    """

    false_alarm: float | None = None
    confidence: float | None = None
    pixel: PixelKind | None = None
    pixel_rate: float | None = None
    area: int | None = None
    clean_up: CleanUpKey | None = None

    def given(self) -> list[str]:
        """Return the names of the keys that are not None, such as "decision.false_alarm"."""
        return [f"decision.{name}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class DecisionSettings:
    """The settings of a decision. `Decision` documents the fields."""

    false_alarm: float = 0.01
    confidence: float | None = None
    pixel_rule: PixelRule = field(default_factory=PixelRule)

    def with_keys(self, keys: DecisionKeys) -> "DecisionSettings":
        """Return these settings with the values of all keys that are not None. Raises UserError if a value is wrong."""
        return DecisionSettings(
            self.false_alarm if keys.false_alarm is None else keys.false_alarm,
            self.confidence if keys.confidence is None else keys.confidence or None,
            self.pixel_rule.with_values(keys.pixel, keys.pixel_rate, keys.area, keys.clean_up),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecisionSettings":
        """Return the settings of `to_dict`'s values. Files of earlier versions have no confidence and no rule."""
        rule = PixelRule.from_dict(values.get("pixel_rule", {}))
        return cls(values["false_alarm"], values.get("confidence"), rule)
