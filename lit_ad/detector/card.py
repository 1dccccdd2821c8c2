"""The card of a detector: one record of everything but its network, the same in checkpoints and in exported files."""

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
    """The record of a detector: its method, how it sees an image, how it scores and how it decides."""

    method: str  # the class, such as lit_ad.methods.stfpm.STFPM
    view: View
    decision: Decision | None  # None: the detector has no threshold
    top: float = 0.0  # the score is the mean of this fraction of the map's pixels, the highest ones; 0: the maximum
    map_scored: bool = True  # whether the score is computed from the map; False: the network gives it
    version: str = ""  # the version of lit_ad that wrote the file
    precision: str = "fp32"  # fp32, fp16 or int8
    without_map: str = ""  # why an exported file gives no map although its method makes maps; "": it gives maps

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        decision = None if self.decision is None else self.decision.to_dict()
        return {**vars(self), "view": self.view.to_dict(), "decision": decision}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Card":
        """Return the card of `to_dict`'s values. Other keys are ignored: they are for other programs."""
        decision = None if values["decision"] is None else Decision.from_dict(values["decision"])
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**known, "view": View.from_dict(values["view"]), "decision": decision})


def read_card(values: Any, file: str | Path) -> Card:
    """Return the card of a file, from the plain values in it.

    Args:
        values: From `Card.to_dict`, or anything else that a file holds in its place.
        file: The file's name, for messages.

    Raises:
        UserError: The file has no card, or this version of lit_ad cannot read the card that another version wrote.
    """
    try:
        return Card.from_dict(values)
    except (UserError, TypeError, ValueError, KeyError, AttributeError) as error:
        version = values.get("version") if isinstance(values, dict) else None
        if not version:
            raise UserError(
                f"{file} was not written by lit_ad: it has no record of its method, view and decision"
            ) from error
        raise UserError(
            f"{file} was written by lit_ad {version}, and lit_ad {__version__} cannot read its view and its decision "
            f"({first_line(error)}): {ANOTHER_VERSION}"
        ) from error
