"""The frames of a camera, a video or a stream, by OpenCV.

A camera does not wait. A thread reads each of its frames and keeps the last one alone, so that what is judged is never
old; frames that nobody took are counted. Of a video file, each frame is given, and nothing is lost.
"""

import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from lit_ad.errors import UserError
from lit_ad.line.feed import Arrival

OPENED, READ = 10_000, 10_000  # milliseconds that opening a stream, or its next frame, may take
LONGEST_PAUSE = 30.0  # seconds before a lost camera is tried again; the first pause is 1
_VIDEOS = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mjpeg", ".mjpg")


def is_camera(source: str) -> bool:
    """Whether a source is a camera's number, an address or a device: its frames come whether they are taken or not."""
    return source.isdecimal() or "://" in source or source.startswith("/dev/")


def is_video(source: str) -> bool:
    """Whether a source is called like a video file."""
    return Path(source).suffix.lower() in _VIDEOS


def without_password(address: str) -> str:
    """An address without the user and password that may stand in it."""
    return re.sub(r"(://)[^/@]*@", r"\1", address)


def opened(source: str) -> cv2.VideoCapture:
    """What gives a source's frames. Raises UserError if it cannot be opened."""
    if "://" in source:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPENED, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        raise UserError(
            f"{without_password(source)} gives no pictures: is the camera there, is the address right, and can OpenCV "
            "read its format?"
        )
    return capture


class VideoFeed:
    """Each frame of a video file.

    Args:
        file: The video.
        every: Seconds of the video from a frame that is given to the next. None: each.

    Raises:
        UserError: It cannot be opened.
    """

    def __init__(self, file: str, every: float | None = None) -> None:
        self.file, self.every = file, every
        self.passed_over, self.trouble, self._closed = 0, "", False
        self._capture = opened(file)

    def __iter__(self) -> Iterator[Arrival]:
        """Yield the frames."""
        number, due = 0, 0.0
        while not self._closed:
            there, frame = self._capture.read()
            if not there:
                break
            number += 1
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self.every is None or seconds >= due - 1e-6:
                due = seconds + (self.every or 0)
                yield Arrival(f"{Path(self.file).name}#{number}", frame=frame)
        self._capture.release()

    def waiting(self) -> int:
        """None: the file waits."""
        return 0

    def comes_again(self, arrival: Arrival) -> bool:
        """Never: a frame is there or not."""
        return False

    def close(self) -> None:
        """End at the next frame."""
        self._closed = True


class CameraFeed:
    """The newest frame of a camera, whenever one is asked for. A camera that is lost is opened again.

    Args:
        source: Its number, or an address such as rtsp://HOST/PATH.
        every: Seconds from a frame that is given to the next, at least. None: as fast as they are taken.

    Raises:
        UserError: It cannot be opened now.
    """

    def __init__(self, source: str, every: float | None = None) -> None:
        self.source, self.every, self.name = source, every, without_password(source)
        self.passed_over, self.trouble = 0, ""
        self.frames = 0  # that the camera gave
        self._capture = opened(source)
        self._newest: NDArray[Any] | None = None
        self._time = self._due = 0.0
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield frames, as they are asked for."""
        while True:
            with self._changed:
                while self._newest is None:
                    if self._closing.is_set():
                        return
                    self._changed.wait(0.1)
                frame, taken = self._newest, datetime.fromtimestamp(self._time, UTC)
                self._newest = None
            yield Arrival(taken.isoformat(timespec="milliseconds"), frame=frame)

    def waiting(self) -> int:
        """1 where there is a frame that nobody has taken yet."""
        return int(self._newest is not None)

    def comes_again(self, arrival: Arrival) -> bool:
        """Never: a frame is there or not."""
        return False

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._thread.join(READ / 1000 + 1)

    def _work(self) -> None:
        pause = 1.0
        while not self._closing.is_set():
            there, frame = self._capture.read()
            if there:
                pause = 1.0
                self._take(frame)
                continue
            self.trouble = f"{self.name} gives no pictures since {datetime.now(UTC).isoformat(' ', 'seconds')}"
            self._capture.release()
            if self._closing.wait(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._capture = opened(self.source)
            except UserError:
                continue  # a closed capture gives no frame, and is opened again
        self._capture.release()

    def _take(self, frame: NDArray[Any]) -> None:
        now = time.time()
        self.trouble = ""
        with self._changed:
            self.frames += 1
            if self.every is not None:
                if now < self._due:
                    return
                self._due = now + self.every
            self.passed_over += self._newest is not None
            self._newest, self._time = frame, now
            self._changed.notify()
