"""Read the frames of a camera, a stream or a video file, by OpenCV.

A camera does not wait. A thread reads every frame and keeps only the newest, so that the detector never judges an old
one. Frames that are replaced before they were judged are counted. A video file waits, so every frame of it is judged.
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

OPEN_MS, _READ_MS = 10_000, 10_000  # milliseconds that opening a stream, or reading a frame, may take
_LONGEST_PAUSE = 30.0  # seconds between two attempts to open a lost camera; the first pause is 1
_VIDEOS = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mjpeg", ".mjpg")


def is_camera(source: str) -> bool:
    """Whether a source is a camera or a stream, which does not wait: a number, an address with ://, or a device."""
    return source.isdecimal() or "://" in source or source.startswith("/dev/")


def is_video(source: str) -> bool:
    """Whether the name of a source has the suffix of a video file."""
    return Path(source).suffix.lower() in _VIDEOS


def hide_password(address: str) -> str:
    """Return an address without its user and password, for messages and the journal."""
    return re.sub(r"(://)[^/@]*@", r"\1", address)


def _open_capture(source: str) -> cv2.VideoCapture:
    """Open a source of frames. Raises UserError if OpenCV cannot open it."""
    if "://" in source:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        raise UserError(
            f"{hide_password(source)} gives no pictures: check that the camera is connected, that the address is "
            "right, and that OpenCV can read the format"
        )
    return capture


class VideoFeed:
    """The frames of a video file, in order.

    Args:
        file: The video file.
        every: Seconds of the video between two frames to judge. None: every frame.

    Raises:
        UserError: OpenCV cannot open the file.
    """

    def __init__(self, file: str, every: float | None = None) -> None:
        self.file, self.every = file, every
        self.passed_over, self.trouble, self._closed = 0, "", False
        self._capture = _open_capture(file)

    def __iter__(self) -> Iterator[Arrival]:
        """Yield the frames, named FILE#1, FILE#2 and so on, until the video ends or `close` is called."""
        number, due = 0, 0.0
        while not self._closed:
            success, frame = self._capture.read()
            if not success:
                break
            number += 1
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self.every is None or seconds >= due - 1e-6:
                due = seconds + (self.every or 0)
                yield Arrival(f"{Path(self.file).name}#{number}", frame=frame)
        self._capture.release()

    def count_waiting(self) -> int:
        """Return 0: a video file has no queue."""
        return 0

    def try_again(self, arrival: Arrival) -> bool:
        """Return False: a frame is complete when it is read."""
        return False

    def close(self) -> None:
        """Stop at the next frame."""
        self._closed = True


class CameraFeed:
    """The newest frame of a camera, each time the detector is ready. If the camera is lost, the feed opens it again.

    Args:
        source: The camera's number, or an address such as rtsp://HOST/PATH.
        every: The shortest time between two frames to judge, in seconds. None: as fast as the detector judges.

    Raises:
        UserError: OpenCV cannot open the camera at the start.
    """

    def __init__(self, source: str, every: float | None = None) -> None:
        self.source, self.every, self.name = source, every, hide_password(source)
        self.passed_over, self.trouble = 0, ""
        self.frames = 0  # frames that were read from the camera
        self._capture = _open_capture(source)
        self._newest: NDArray[Any] | None = None
        self._time = self._due = 0.0
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield the newest frame at each step, named by its time, until `close` is called."""
        while True:
            with self._changed:
                while self._newest is None:
                    if self._closing.is_set():
                        return
                    self._changed.wait(0.1)
                frame, moment = self._newest, datetime.fromtimestamp(self._time, UTC)
                self._newest = None
            yield Arrival(moment.isoformat(timespec="milliseconds"), frame=frame)

    def count_waiting(self) -> int:
        """Return 1 if there is a frame that was not yielded yet, else 0."""
        return int(self._newest is not None)

    def try_again(self, arrival: Arrival) -> bool:
        """Return False: a frame is complete when it is read."""
        return False

    def close(self) -> None:
        """Stop, and release the camera."""
        self._closing.set()
        self._thread.join(_READ_MS / 1000 + 1)

    def _work(self) -> None:
        """Read frames until `close` is called. Open the camera again when it gives none."""
        pause, last = 1.0, datetime.now(UTC)
        while not self._closing.is_set():
            success, frame = self._capture.read()
            if success:
                pause, last = 1.0, datetime.now(UTC)
                self._keep(frame)
                continue
            self.trouble = f"{self.name} has given no pictures since {last.isoformat(' ', 'seconds')}"
            self._capture.release()
            if self._closing.wait(pause):
                break
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                self._capture = _open_capture(self.source)
            except UserError:
                continue  # the released capture gives no frame, so the next round tries to open it again
        self._capture.release()

    def _keep(self, frame: NDArray[Any]) -> None:
        """Make a frame the newest one, and count the frame that it replaces. Ignore frames that come too soon."""
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
