"""What a detector is beside its network, whatever runs that: one record, in checkpoints and exported files alike."""

from dataclasses import dataclass, fields
from typing import Any

from lit_ad.detector.decision import Decision
from lit_ad.image.view import View


@dataclass(frozen=True)
class Card:
    """What a detector's file says of it beside the network."""

    method: str
    view: View
    decision: Decision | None
    top: float = 0.0  # the fraction of a map's pixels, the highest, whose mean is the score; 0: the maximum
    map_scored: bool = True  # whether the score is that of the map
    version: str = ""
    precision: str = "fp32"
    without_map: str = ""  # why there is no map, of an exported method that has one

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        decision = None if self.decision is None else self.decision.to_dict()
        return {**vars(self), "view": self.view.to_dict(), "decision": decision}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Card":
        """The inverse of `to_dict`; what else there is is for other programs."""
        decision = None if values["decision"] is None else Decision.from_dict(values["decision"])
        mine = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**mine, "view": View.from_dict(values["view"]), "decision": decision})
