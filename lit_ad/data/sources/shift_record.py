"""Read the record of `lit-ad data shift` in a folder of shifted images."""

import json
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError

SHIFT = "shift.json"  # name of the record in the folder of a shifted copy


def read_shift(root: Path) -> dict[str, Any] | None:
    """Return kind, strength and seed of a shifted copy; None if the folder is not a shifted copy.

    Args:
        root: The folder of the copy, or of one category in it.

    Raises:
        UserError: The record has another content.
    """
    for file in (root / SHIFT, root.absolute().parent / SHIFT):
        if file.is_file():
            try:
                values = json.loads(file.read_text(encoding="utf-8"))
                return {"kind": str(values["kind"]), "strength": float(values["strength"]), "seed": int(values["seed"])}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is no record of lit-ad data shift ({error}): remove it") from error
    return None
