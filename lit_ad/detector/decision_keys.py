"""What people ask of a decision, and the one way in which keys change it. Nothing but Python."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lit_ad.detector.pixel_rule import CleanUpKey, PixelKind, PixelRule


@dataclass(frozen=True)
class DecisionKeys:
    """The keys that change a decision without a training.

    Args:
        false_alarm: The rate of nominal images that may be called anomalous. None: as it was.
        confidence: Keep that rate by this one detector with a confidence, such as 0.95. None: as it was.
        pixel: Which pixels are anomalous, see lit-ad fit --help. None: as it was.
        pixel_rate: The rate of nominal pixels, for `pixel`, and of where a cleaned-up region ends. None: as it was.
        area: Pixels of the smallest region that counts, for `region`. None: as it was.
        clean_up: Grow anomalous pixels to the outline of a defect, see lit-ad fit --help. None: as it was.
    """

    false_alarm: float | None = None
    confidence: float | None = None
    pixel: PixelKind | None = None
    pixel_rate: float | None = None
    area: int | None = None
    clean_up: CleanUpKey | None = None


@dataclass(frozen=True)
class DecisionSettings:
    """What a decision is asked for; its fields of these names say more."""

    false_alarm: float = 0.01
    confidence: float | None = None
    pixel_rule: PixelRule = field(default_factory=PixelRule)

    def changed(self, keys: DecisionKeys) -> "DecisionSettings":
        """The same with what is given in place of its own. Raises UserError on what cannot be."""
        return DecisionSettings(
            self.false_alarm if keys.false_alarm is None else keys.false_alarm,
            self.confidence if keys.confidence is None else keys.confidence,
            self.pixel_rule.changed(keys.pixel, keys.pixel_rate, keys.area, keys.clean_up),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecisionSettings":
        """The inverse of `to_dict`, also of files from before confidence and rule were there."""
        rule = PixelRule.from_dict(values.get("pixel_rule", {}))
        return cls(values["false_alarm"], values.get("confidence"), rule)
