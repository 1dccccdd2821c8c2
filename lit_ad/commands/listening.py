"""The address and the token of the service, for the commands that run one."""

import os
import re
import socket
from ipaddress import ip_address

from lit_ad.errors import UserError, check_number

SERVICE = ("uvicorn", "starlette", "python_multipart", "prometheus_client")  # packages that the service needs
TOKEN = "LIT_AD_TOKEN"  # not an argument, which every list of processes would show


def read_token(host: str) -> str | None:
    """Read the service's token, or None.

    Raises:
        UserError: It is missing and other machines can reach the host, or a request cannot carry it.
    """
    token = os.environ.get(TOKEN) or None
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UserError(f"{TOKEN} has a space, a line break or another sign that no request can carry: use ASCII")
    if token is None and not is_loopback(host):
        raise UserError(f"other machines can reach {host}: set the environment variable {TOKEN} to a token")
    return token


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; port 0 stands for a free port. Raises UserError if the address cannot be used."""
    check_number("--port", port, least=0, most=65535)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port}: {error.strerror}; give another --port, or 0 for a free one"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name other than localhost
        return False
