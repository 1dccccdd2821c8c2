"""How many there are of a thing, in texts: in the singular where there is one."""

from collections.abc import Sequence

SHOWN = 3  # things that a sentence names


def format_count(number: int, singular: str, plural: str = "") -> str:
    """A number and what it is of: "1 image", "2 images"; "no images" where there is none.

    Args:
        number: Of things.
        singular: The words for one of them, with its verb if it has one: "image", "file is".
        plural: The words for another number. "": `singular` with an s.
    """
    return f"{number or 'no'} {singular if number == 1 else plural or f'{singular}s'}"


def format_times(number: int) -> str:
    """How often: "once", "2 times"."""
    return "once" if number == 1 else f"{number} times"


def first_few(items: Sequence[object]) -> str:
    """The first of many, and how many more there are."""
    rest = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + rest
