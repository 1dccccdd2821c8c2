"""Sources of images: a folder that fills, a camera or a video, or paths on standard input."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from lit_ad.errors import check_number


@dataclass(frozen=True)
class Arrival:
    """An image of a feed: either a file or a frame."""

    name: str
    file: Path | None = None
    frame: NDArray[Any] | None = None  # (H, W, 3) uint8 in the order blue, green, red, as OpenCV gives it


class Feed(Protocol):
    """A source of images. Images that the feed skips are counted."""

    passed_over: int  # frames that were skipped, because the camera is faster than the detector
    trouble: str  # what is wrong with the source now; "": nothing

    def __iter__(self) -> Iterator[Arrival]:
        """Yield images until the source ends or `close` is called."""

    def count_waiting(self) -> int:
        """Return the number of images that have arrived and were not yielded yet."""

    def try_again(self, arrival: Arrival) -> bool:
        """Queue an unreadable image again if it may not be completely written yet. Return whether it was queued."""

    def close(self) -> None:
        """End the feed. Another thread may call this."""


@dataclass(frozen=True)
class FeedSettings:
    """Which images of the source are judged, and under which name.

    Args:
        name: The name of the source in the journal and in messages. None: the name of the folder or camera.
        category: The category of all images, for a model of several products; its threshold decides. None: one
            threshold for all categories.
        every: Seconds between two frames of a camera or video to judge. None: every frame of a video, and as many
            frames of a camera as the detector can judge.
        new_only: Whether to skip the images that are in the folder at the start. If false, images that the journal does
            not have yet are judged.
        settle: Seconds that a file must stay unchanged before it is read. This is needed where the system does not
            report that a file was closed.

    Raises:
        UserError: A number is out of its range.
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
