"""A sink that posts messages to an HTTP address."""

import os
from urllib.parse import urlsplit

import requests

from lit_ad.errors import UserError
from lit_ad.line.sinks.sink import DeliveryError, Outbox, has_valid_port

_TOKEN = "LIT_AD_WEBHOOK_TOKEN"  # an environment variable: an argument would show in the list of processes
_TIMEOUTS = (5, 10)  # seconds to wait for a connection, and for an answer
_TEMPORARY = (408, 425, 429)  # answers 4xx after which a message is sent again


class Webhook(Outbox):
    """Posts the messages as JSON, in order. A message is sent again until the receiver takes it or refuses it.

    An answer 4xx is a refusal, except 408, 425 and 429. If the environment variable LIT_AD_WEBHOOK_TOKEN is set, the
    requests have it as `Authorization: Bearer TOKEN`.

    Args:
        address: An address that begins with http:// or https://.

    Raises:
        UserError: The address is not valid.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not has_valid_port(parts):
            raise UserError(f"to.webhook is {address!r}, but it must be http://HOST[:PORT]/PATH or https://")
        self.address, self.session = address, requests.Session()
        self.session.headers["content-type"] = "application/json"
        if token := os.environ.get(_TOKEN):
            self.session.headers["authorization"] = f"Bearer {token}"
        super().__init__(self._post)

    def _post(self, text: str) -> None:
        """Send a message. Raises DeliveryError."""
        try:
            answer = self.session.post(self.address, data=text.encode(), timeout=_TIMEOUTS, allow_redirects=False)
        except requests.RequestException as error:
            raise DeliveryError(f"the webhook does not answer: {type(error).__name__}") from error
        status = answer.status_code
        if not 200 <= status < 300:
            raise DeliveryError(f"the webhook answers {status}", retry=status in _TEMPORARY or status >= 500)
