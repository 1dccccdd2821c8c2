"""The live picture and the status of a watched line, for the service's page."""

import base64
import threading
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lit_ad.deploy.answers import describe_detection, draw_png
from lit_ad.detector.detection import Detection


class Live:
    """The last image of a line. Its picture is drawn only when a client asks for it, and only once.

    Args:
        status: Returns the status of the line: see `lit_ad.line.watching.Watching.status`.
    """

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status
        self.observers: list[Callable[[Detection, float], None]] = []  # called with each verdict and its seconds
        self._last: tuple[int, str, Detection] | None = None
        self._answer: tuple[int, dict[str, Any]] | None = None  # the image that was drawn last, by number
        self._drawing = threading.Lock()

    def show(self, name: str, detection: Detection, seconds: float) -> None:
        """Make an image the last one. Judging it took `seconds`."""
        self._last = (1 if self._last is None else self._last[0] + 1), name, detection
        for observe in self.observers:
            observe(detection, seconds)

    def last_image(self, after: int = 0) -> dict[str, Any] | None:
        """Return the last image, its verdict and its picture, as plain values for JSON.

        None: there is no image whose number is above `after`.
        """
        last = self._last
        if last is None or last[0] <= after:
            return None
        number, name, detection = last
        with self._drawing:
            if self._answer is None or self._answer[0] < number:
                picture = "data:image/png;base64," + base64.b64encode(draw_png(detection)).decode()
                values = {"number": number, "name": name, **describe_detection(detection), "picture": picture}
                self._answer = number, values
            return self._answer[1]


def make_live_routes(live: Live, check_token: Callable[[Request], None]) -> list[Route]:
    """Make the route GET /live?after=N: the status of the line, and the last image if its number is above N.

    Args:
        live: The line's last image and status.
        check_token: Raises HTTPException on a request without the service's token.
    """

    async def last(request: Request) -> Response:
        check_token(request)
        after = request.query_params.get("after", "0")
        image = await run_in_threadpool(live.last_image, int(after) if after.isdecimal() else 0)
        return JSONResponse({"image": image, "line": live.status()})

    return [Route("/live", last)]
