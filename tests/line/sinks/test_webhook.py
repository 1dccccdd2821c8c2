"""A webhook gets each message once and in order, also after a failure; messages that it refuses are counted."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lit_ad.errors import UserError
from lit_ad.line.sinks import sink
from lit_ad.line.sinks.webhook import Webhook
from tests.serving import serving


class Receiver(ThreadingHTTPServer):
    answers: list[int]
    got: list[tuple[str, dict[str, str]]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        status = self.server.answers.pop(0) if self.server.answers else 204
        if status < 300:
            self.server.got.append((body, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sink, "FIRST_PAUSE", 0.01)
    server = Receiver(("127.0.0.1", 0), Handler)
    server.answers, server.got = [], []
    with serving(server):
        yield server


def test_messages_are_posted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_AD_WEBHOOK_TOKEN", "geheim")
    receiver.answers = [503, 429, 200, 400, 200]
    webhook = Webhook(f"http://127.0.0.1:{receiver.server_port}/hook")
    for number in range(4):
        webhook.send(json.dumps({"number": number}))
    webhook.close()
    assert [json.loads(body)["number"] for body, _ in receiver.got] == [0, 2, 3]  # the webhook refused 1
    headers = receiver.got[0][1]
    assert (headers["content-type"], headers["authorization"]) == ("application/json", "Bearer geheim")
    assert webhook.status() == {"sent": 3, "dropped": 1, "waiting": 0, "trouble": None}


def test_messages_are_dropped_if_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 0.2)
    webhook = Webhook("http://127.0.0.1:9/hook")
    webhook.send("{}")
    webhook.close()
    assert webhook.dropped == 1 and webhook.trouble == "the webhook does not answer: ConnectionError"


def test_wrong_addresses_are_refused() -> None:
    for address in ("localhost:80", "ftp://host/x", "http:///x", "http://host:port/x"):
        with pytest.raises(UserError, match=r"it must be http://HOST\[:PORT\]/PATH"):
            Webhook(address)
