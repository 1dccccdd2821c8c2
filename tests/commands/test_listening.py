"""Other machines need a token, and an address in use is refused."""

import pytest

from lit_ad.commands.listening import is_loopback, listen, read_token
from lit_ad.errors import UserError


def test_other_machines_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")
    assert [is_loopback(host) for host in hosts] == [True, True, True, False, False]
    monkeypatch.delenv("LIT_AD_TOKEN", raising=False)
    assert read_token("127.0.0.1") is None
    with pytest.raises(UserError, match=r"other machines can reach 0\.0\.0\.0: set .* LIT_AD_TOKEN"):
        read_token("0.0.0.0")
    monkeypatch.setenv("LIT_AD_TOKEN", "geheim")
    assert read_token("0.0.0.0") == "geheim"
    for token in ("ge heim", "geheim\r", "größe"):
        monkeypatch.setenv("LIT_AD_TOKEN", token)
        with pytest.raises(UserError, match="LIT_AD_TOKEN has a space, a line break or another sign that no request"):
            read_token("127.0.0.1")


def test_an_address_in_use_is_refused() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}: .*; give another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="--port is 99999"):
        listen("127.0.0.1", 99999)
