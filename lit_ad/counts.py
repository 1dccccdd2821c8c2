"""How many there are of a thing, in texts: in the singular where there is one."""


def format_count(number: int, one: str, several: str = "") -> str:
    """A number and what it is of: "1 image", "2 images"; "no images" where there is none.

    Args:
        number: Of things.
        one: The words for one of them, with its verb if it has one: "image", "file is".
        several: The words for another number. "": `one` with an s.
    """
    return f"{number or 'no'} {one if number == 1 else several or f'{one}s'}"


def format_times(number: int) -> str:
    """How often: "once", "2 times"."""
    return "once" if number == 1 else f"{number} times"
