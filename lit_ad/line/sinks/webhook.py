"""Messages by POST to an HTTP address."""

import os
from urllib.parse import urlsplit

import requests

from lit_ad.errors import UserError
from lit_ad.line.sinks.sink import Failed, Outbox, has_port

TOKEN = "LIT_AD_WEBHOOK_TOKEN"  # an argument would stand in every list of processes
SECONDS = (5, 10)  # until a connection, and until an answer
_LATER = (408, 425, 429)  # of the 4xx, those that ask to come again


class Webhook(Outbox):
    """Posts each message as JSON, in order; while the receiver is away, it is tried again.

    The environment variable LIT_AD_WEBHOOK_TOKEN, where it is set, is sent as `Authorization: Bearer TOKEN`. A 4xx, but
    for 408, 425 and 429, refuses a message for good.

    Args:
        address: http:// or https://

    Raises:
        UserError: It is none.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not has_port(parts):
            raise UserError(f"to.webhook is {address!r}, but it must be http://HOST[:PORT]/PATH or https://")
        self.address, self.session = address, requests.Session()
        self.session.headers["content-type"] = "application/json"
        if token := os.environ.get(TOKEN):
            self.session.headers["authorization"] = f"Bearer {token}"
        super().__init__(self._post)

    def _post(self, text: str) -> None:
        try:
            answer = self.session.post(self.address, data=text.encode(), timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise Failed(f"the webhook does not answer: {type(error).__name__}") from error
        status = answer.status_code
        if not 200 <= status < 300:
            raise Failed(f"the webhook answers {status}", again=status in _LATER or status >= 500)
