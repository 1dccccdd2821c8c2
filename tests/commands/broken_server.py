"""A server with faults: it breaks off, knows no ranges, or sends another part."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

PIECE = 1 << 12
CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves files from memory. Each answer takes the next fault from a list, until the list is empty."""

    files: dict[str, bytes]
    faults: list[
        Any
    ]  # a number: close after so many bytes; "status N"; "whole": ignore the range; "shift": another part
    asked: list[str | None]  # the Range of each request

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        content = self.server.files.get(self.path[1:])
        if content is None or str(fault).startswith("status"):
            return self.send_error(404 if content is None else int(str(fault).split()[1]))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and fault != "whole" else None
        if start is not None and start >= len(content):
            return self.send_error(416)
        rest = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Length", str(len(rest)))
        if start is not None:
            shown = start + (fault == "shift")
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(rest[:fault] if isinstance(fault, int) else rest)
        return None

    def log_message(self, *args: Any) -> None:
        """Nothing on the console."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def starts(server: Server) -> list[int]:
    return [int(asked[6:-1]) if asked else 0 for asked in server.asked]
