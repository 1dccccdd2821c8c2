"""The picture of a line that is watched, for the service's page, and how the line stands."""

import base64
import threading
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lit_ad.deploy.answers import as_json, png
from lit_ad.detector.detection import Detection


class Live:
    """The last image of a line. Its picture is made when somebody looks, and once.

    Args:
        status: How the line stands, as plain values for JSON: see `lit_ad.line.watching.Watching.status`.
    """

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status
        self.observers: list[Callable[[Detection, float], None]] = []
        self._last: tuple[int, str, Detection] | None = None
        self._made: tuple[int, dict[str, Any]] | None = None
        self._making = threading.Lock()

    def show(self, name: str, detection: Detection, seconds: float) -> None:
        """Take a verdict into account, which took so many seconds."""
        self._last = (1 if self._last is None else self._last[0] + 1), name, detection
        for observe in self.observers:
            observe(detection, seconds)

    def picture(self, after: int = 0) -> dict[str, Any] | None:
        """The last image with its verdict, as plain values for JSON. None where there is none behind that number."""
        last = self._last
        if last is None or last[0] <= after:
            return None
        number, name, detection = last
        with self._making:
            if self._made is None or self._made[0] < number:
                picture = "data:image/png;base64," + base64.b64encode(png(detection)).decode()
                self._made = number, {"number": number, "name": name, **as_json(detection), "picture": picture}
            return self._made[1]


def live_routes(live: Live, admitted: Callable[[Request], None]) -> list[Route]:
    """GET /live?after=N is the last image, if its number is above N, and how the line stands.

    Args:
        live: Of the line.
        admitted: Raises HTTPException on a request that lacks the service's token.
    """

    async def last(request: Request) -> Response:
        admitted(request)
        after = request.query_params.get("after", "0")
        image = await run_in_threadpool(live.picture, int(after) if after.isdecimal() else 0)
        return JSONResponse({"image": image, "line": live.status()})

    return [Route("/live", last)]
