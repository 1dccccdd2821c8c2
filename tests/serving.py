"""A server of the standard library that answers in a thread while a test asks it, and ports for servers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer


def find_free_port() -> int:
    """Return a TCP port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Answer requests until the block ends; then close the server and wait for its thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()
