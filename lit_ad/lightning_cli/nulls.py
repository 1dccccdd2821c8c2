"""`--model.view.KEY null` on the command line.

jsonargparse (4.53) reads the null, and hands it on to the parser of a class's arguments as the word None, which is no
number. Of a mapping it hands on the text: `--model.view '{KEY: null}'` says the same, and leaves the other keys alone.
"""

import re
from collections.abc import Sequence

KEY = re.compile(r"(--model(?:\.init_args)?\.view)\.(\w+)(=null)?")


def nulls_of_views(arguments: Sequence[str]) -> list[str]:
    """What was typed, with nulls of the view as mappings."""
    found: list[str] = []
    for argument in arguments:
        key = KEY.fullmatch(found[-1]) if argument == "null" and found else None
        if key and not key[3]:
            found.pop()
        else:
            key = KEY.fullmatch(argument)
        found += [key[1], f"{{{key[2]}: null}}"] if key and (key[3] or argument == "null") else [argument]
    return found
