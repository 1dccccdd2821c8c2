"""Write counts in texts, in the singular or the plural."""

from collections.abc import Sequence

SHOWN = 3  # the most things that a sentence names


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: "1 image", "2 images", "no images".

    Args:
        number: How many things there are.
        singular: The words for one thing, with a verb if needed: "image", "file is".
        plural: The words for other numbers. "": `singular` with an s.
    """
    return f"{number or 'no'} {singular if number == 1 else plural or f'{singular}s'}"


def format_times(number: int) -> str:
    """Return "once", "2 times" and so on."""
    return "once" if number == 1 else f"{number} times"


def first_few(items: Sequence[object]) -> str:
    """Return the first three items as text, with the number of the others: "a, b, c and 2 more"."""
    rest = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + rest
