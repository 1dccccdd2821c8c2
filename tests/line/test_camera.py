"""A video gives every frame. A camera gives its newest frame, counts the others, and is opened again if it is lost."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_ad.errors import UserError
from lit_ad.line import camera
from lit_ad.line.camera import CameraFeed, VideoFeed, hide_password, is_camera, is_video
from tests.serving import serving


def frame(number: int) -> np.ndarray:
    return np.full((32, 48, 3), 2 * number, np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Write a video of 40 frames, 10 per second, each brighter than the one before."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for number in range(40):
        writer.write(frame(number))
    writer.release()
    return tmp_path / "v.avi"


def test_a_video_gives_every_frame(video: Path) -> None:
    arrivals = list(VideoFeed(str(video)))
    assert [arrival.name for arrival in arrivals] == [f"v.avi#{number}" for number in range(1, 41)]
    shades = [float(arrival.frame.mean()) for arrival in arrivals if arrival.frame is not None]
    assert shades == pytest.approx([2 * number for number in range(40)], abs=2)
    assert [arrival.name for arrival in VideoFeed(str(video), every=0.5)] == [f"v.avi#{n}" for n in range(1, 41, 5)]


class Camera(ThreadingHTTPServer):
    """A network camera that sends motion JPEG by HTTP, 50 frames per second."""

    connections = 0
    frames = 1_000_000  # frames of a connection, which then ends
    refused = 0  # the number of a connection that gets no frames


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Camera)
        self.server.connections += 1
        if self.server.connections == self.server.refused:
            return self.send_error(503)
        self.send_response(200)
        self.send_header("content-type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for number in range(self.server.frames):
                content = cv2.imencode(".jpg", frame(number % 100))[1].tobytes()
                head = f"--frame\r\ncontent-type: image/jpeg\r\ncontent-length: {len(content)}\r\n\r\n"
                self.wfile.write(head.encode() + content + b"\r\n")
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Camera]:
    server = Camera(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server):
        yield server


def test_skipped_frames_are_counted(server: Camera) -> None:
    feed = CameraFeed(f"http://127.0.0.1:{server.server_port}/stream.mjpg")
    taken = 0
    for arrival in feed:
        assert arrival.frame is not None and arrival.frame.shape == (32, 48, 3)
        taken += 1
        if taken == 5:
            break
        time.sleep(0.2)  # ten frames
    feed.close()
    assert feed.passed_over >= 10
    assert taken + feed.passed_over + feed.count_waiting() == feed.frames


def test_a_camera_that_is_lost_is_opened_again(server: Camera) -> None:
    server.frames, server.refused = 50, 2
    feed = CameraFeed(f"http://127.0.0.1:{server.server_port}/stream.mjpg")
    troubles = set()
    while feed.frames <= 60:
        troubles.add(feed.trouble)
        time.sleep(0.01)
    assert server.connections >= 3 and not feed.trouble
    feed.close()
    assert feed.frames > 60
    (trouble,) = troubles - {""}  # the same at each attempt
    assert trouble.startswith(f"{feed.source} has given no pictures since 20")


def test_frames_are_given_every_few_seconds(server: Camera) -> None:
    feed = CameraFeed(f"http://127.0.0.1:{server.server_port}/stream.mjpg", every=0.3)
    begin = time.monotonic()
    for taken, _ in enumerate(feed, 1):
        if taken == 4:
            break
    seconds = time.monotonic() - begin
    feed.close()
    assert (
        seconds > 0.85 and feed.frames > 20 and feed.passed_over == 0
    )  # frames before `every` do not count as skipped


def test_sources_without_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "OPEN_MS", 1000)
    (tmp_path / "v.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"v.mp4 gives no pictures"):
        VideoFeed(str(tmp_path / "v.mp4"))
    with pytest.raises(UserError, match=r"^rtsp://127.0.0.1:9/x gives no pictures"):
        CameraFeed("rtsp://ada:geheim@127.0.0.1:9/x")


def test_sources_are_recognized_by_their_names() -> None:
    assert all(map(is_camera, ("0", "rtsp://h/x", "http://h/x.mjpg", "/dev/video0"))) and not is_camera("a/0")
    assert is_video("a/V.MP4") and not is_video("a")
    assert hide_password("rtsp://ada:pass@host:554/x@y") == "rtsp://host:554/x@y"
