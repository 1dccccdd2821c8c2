"""Where the service listens, for the commands that have one."""

import os
import socket
from ipaddress import ip_address

from lit_ad.errors import UserError, check_number

SERVICE = ("uvicorn", "starlette", "python_multipart", "prometheus_client")  # packages that it needs
TOKEN = "LIT_AD_TOKEN"  # an argument would stand in every list of processes


def token_of(host: str) -> str | None:
    """The service's token. Raises UserError where there is none, and the host is reached from other machines."""
    token = os.environ.get(TOKEN) or None
    if token is None and not is_loopback(host):
        raise UserError(f"{host} is reached from other machines: set the environment variable {TOKEN} to a token")
    return token


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; port 0 is a free one. Raises UserError if that cannot be."""
    check_number("--port", port, least=0, most=65535)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port}: {error.strerror}; give another --port, or 0 for a free one"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another name
        return False
