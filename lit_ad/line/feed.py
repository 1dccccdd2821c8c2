"""Where the images of a line come from: a folder that fills, a camera or video, or paths on standard input."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from lit_ad.errors import check_number


@dataclass(frozen=True)
class Arrival:
    """An image that has come: a file, or a frame of a camera."""

    name: str
    file: Path | None = None
    frame: NDArray[Any] | None = None  # (H, W, 3) uint8; blue, green, red, as OpenCV has them


class Feed(Protocol):
    """Gives images as they come. What it could not give is counted."""

    passed_over: int  # images that never come, since judging is slower than they are
    trouble: str  # what is wrong with the source now; "": nothing

    def __iter__(self) -> Iterator[Arrival]:
        """Yield images until the source ends or `close` is called."""

    def waiting(self) -> int:
        """Images that are there and were not given yet."""

    def comes_again(self, arrival: Arrival) -> bool:
        """Whether an image that cannot be read is given again later, since it may not be written to its end."""

    def close(self) -> None:
        """End; may be called from another thread."""


@dataclass(frozen=True)
class FeedSettings:
    """What is taken of a source.

    Args:
        name: Of the source, in the journal and in messages. None: the folder's, or the camera's.
        category: Of a model for many products: whose thresholds count.
        every: Seconds from a frame of a camera or video to the next that is judged. None: each frame, as far as a
            camera's can be judged in time.
        new_only: Whether the images that lie in a folder at the start are passed over. Else those are judged that the
            journal does not have.
        settle: Seconds for which a file must not change before it is read, where the system does not say that it was
            closed.
    """

    name: str | None = None
    category: str | None = None
    every: float | None = None
    new_only: bool = False
    settle: float = 1.0

    def __post_init__(self) -> None:
        check_number("feed.settle", self.settle, least=0)
        if self.every is not None:
            check_number("feed.every", self.every, least=0, above=True)


FEED = FeedSettings()
