"""What `lit-ad data shift` did to the images of a folder."""

import json
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError

SHIFT = "shift.json"  # in the folder of a shifted copy


def read_shift(root: Path) -> dict[str, Any] | None:
    """Return kind, strength and seed of a shifted copy, given its folder or one category's in it; None: it is none.

    Raises:
        UserError: The file holds something else.
    """
    for file in (root / SHIFT, root.absolute().parent / SHIFT):
        if file.is_file():
            try:
                values = json.loads(file.read_text(encoding="utf-8"))
                return {"kind": str(values["kind"]), "strength": float(values["strength"]), "seed": int(values["seed"])}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is no record of lit-ad data shift ({error}): remove it") from error
    return None
