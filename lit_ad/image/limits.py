"""How large an image file may be: limits of our own in place of Pillow's. Pillow only.

Pillow refuses images of more than 179 megapixels, and PNG files with more than 1 MiB of text or colour profile. A line
scan and a camera's file may well have more. Pillow's limits are global variables, on which a user's own program may
rely. So a file is read under Pillow's limits first, and under ours only where those stop it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from PIL import Image, PngImagePlugin

from lit_ad.errors import UserError

# Environment variables, which worker processes inherit, and what holds without them. 1000 megapixels in RGB are 3 GB.
MEGAPIXELS, METADATA = "LIT_AD_MAX_MEGAPIXELS", "LIT_AD_MAX_METADATA_MIB"
DEFAULTS = {MEGAPIXELS: 1000.0, METADATA: 64.0}
T = TypeVar("T")


class TooLarge(ValueError):
    """A file exceeds a limit of ours. The message names the limit, and not the file."""


def limit(variable: str) -> float:
    """A limit as the environment has it, or its default. Raises UserError if it is no number above 0."""
    text = os.environ.get(variable) or str(DEFAULTS[variable])
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UserError(f"the environment variable {variable} is {text!r}, but it must be a number above 0")
    return value


def check_pixels(image: Image.Image) -> None:
    """Raises TooLarge if an opened image has more pixels than our limit."""
    if image.width * image.height > 1e6 * limit(MEGAPIXELS):
        raise TooLarge(
            f"it has {image.height}x{image.width} pixels (height x width), more than the {limit(MEGAPIXELS):g} million "
            f"that the environment variable {MEGAPIXELS} allows"
        )


def read_within_limits(read: Callable[[], T]) -> T:
    """The result of `read`, a function that opens an image file from its beginning and may decode it.

    It is called once more if Pillow's limits stop it. It must check the number of pixels before it decodes anything:
    the second call knows no limit of them. Raises TooLarge if a PNG file has more metadata than our limit.
    """
    try:
        return read()
    except Exception as error:
        if not is_limit(error):
            raise
    try:
        with PILLOW.raised():
            return read()
    except ValueError as error:
        if not is_limit(error):
            raise
        raise TooLarge(
            f"it has text or a colour profile of more than the {limit(METADATA):g} MiB that the environment variable "
            f"{METADATA} allows"
        ) from error


def is_limit(error: Exception) -> bool:
    """Whether a limit of Pillow's stopped it. An excess of metadata is a ValueError that names the global variable."""
    if isinstance(error, ValueError):
        return "MAX_TEXT_" in str(error)
    return isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)


class _PillowLimits:
    """Pillow's global limits, which are ours while a thread is inside `raised`, and then what they were before."""

    def __init__(self) -> None:
        self.lock, self.readers = Lock(), 0

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Several threads may be inside at a time: none waits until another has read its file."""
        metadata = int(2**20 * limit(METADATA))
        with self.lock:
            self.readers += 1
            if self.readers == 1:
                self.before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
                self._set(None, metadata, metadata)
        try:
            yield
        finally:
            with self.lock:
                self.readers -= 1
                if not self.readers:
                    self._set(*self.before)

    def _set(self, pixels: int | None, text: int, texts: int) -> None:
        Image.MAX_IMAGE_PIXELS = pixels
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = text, texts


PILLOW = _PillowLimits()
