"""Limit the size of image files: our own limits replace Pillow's. Pillow only.

Pillow refuses images of more than 179 megapixels, and PNG files with more than 1 MiB of text or colour profile. Line
scans and cameras' files may have more. Pillow's limits are global variables, and a user's program may rely on them. So
a file is first read under Pillow's limits, and again under ours only if Pillow's limits stop it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from PIL import Image, PngImagePlugin

from lit_ad.errors import UserError

# The limits are environment variables, because worker processes inherit those. 1000 megapixels in RGB are 3 GB.
MEGAPIXELS, METADATA = "LIT_AD_MAX_MEGAPIXELS", "LIT_AD_MAX_METADATA_MIB"
DEFAULTS = {MEGAPIXELS: 1000.0, METADATA: 64.0}
T = TypeVar("T")


class TooLarge(ValueError):
    """A file exceeds one of our limits. The message names the limit, but not the file."""


def read_limit(variable: str) -> float:
    """Return the limit of an environment variable, or its default. Raises UserError if it is no number above 0."""
    text = os.environ.get(variable) or str(DEFAULTS[variable])
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UserError(f"the environment variable {variable} is {text!r}, but it must be a number above 0")
    return value


def check_pixels(image: Image.Image) -> None:
    """Raise TooLarge if an opened image has more pixels than our limit."""
    if image.width * image.height > 1e6 * read_limit(MEGAPIXELS):
        raise TooLarge(
            f"it has {image.height}x{image.width} pixels (height x width), more than the "
            f"{read_limit(MEGAPIXELS):g} million that the environment variable {MEGAPIXELS} allows"
        )


def read_within_limits(read: Callable[[], T]) -> T:
    """Return the result of `read`, a function that opens an image file from its beginning and may decode it.

    If Pillow's limits stop `read`, it is called again without a limit of pixels. So `read` must call `check_pixels`
    before it decodes anything.

    Raises:
        TooLarge: A PNG file has more metadata than our limit.
    """
    try:
        return read()
    except Exception as error:
        if not is_limit(error):
            raise
    try:
        with PILLOW.replaced():
            return read()
    except ValueError as error:
        if not is_limit(error):
            raise
        raise TooLarge(
            f"it has text or a colour profile of more than the {read_limit(METADATA):g} MiB that the environment "
            f"variable {METADATA} allows"
        ) from error


def is_limit(error: Exception) -> bool:
    """Return whether an error comes from one of Pillow's limits."""
    if isinstance(error, ValueError):  # too much metadata; the message names Pillow's global variable
        return "MAX_TEXT_" in str(error)
    return isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)


class _PillowLimits:
    """Sets Pillow's global limits to ours while a thread is inside `replaced`, and restores them afterwards."""

    def __init__(self) -> None:
        self.lock, self.readers = Lock(), 0

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Replace Pillow's limits by ours. Several threads may be inside at the same time: none waits until another has
        read its file."""
        metadata = int(2**20 * read_limit(METADATA))
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
