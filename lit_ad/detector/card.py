"""What a detector is beside its network, whatever runs that: one record, in checkpoints and exported files alike."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.integrity import first_line
from lit_ad.version import __version__

ANOTHER_VERSION = "use it with that version, or train anew with this one"


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
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**known, "view": View.from_dict(values["view"]), "decision": decision})


def read_card(values: Any, file: str | Path) -> Card:
    """The card of a file, from the plain values that stand in it.

    Raises:
        UserError: There is none, or another version of lit_ad wrote it and it cannot be read here; the file is named.
    """
    try:
        return Card.from_dict(values)
    except (UserError, TypeError, ValueError, KeyError, AttributeError) as error:
        version = values.get("version") if isinstance(values, dict) else None
        if not version:
            raise UserError(f"{file} is not of lit_ad: it says nothing of its method, view and decision") from error
        raise UserError(
            f"{file} was written by lit_ad {version}, and lit_ad {__version__} cannot read what it says of its view "
            f"and its decision ({first_line(error)}): {ANOTHER_VERSION}"
        ) from error
