"""The settings make the sinks that they name."""

from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.line.sinks.settings import SinkSettings


def test_settings_make_sinks(tmp_path: Path) -> None:
    assert SinkSettings().make_sinks() == {}
    settings = SinkSettings(json_lines=str(tmp_path / "out"), webhook="http://127.0.0.1:9/", anomalous_only=True)
    sinks = settings.make_sinks()
    assert list(sinks) == ["webhook", "json_lines"]
    for sink in sinks.values():
        sink.close()
    with pytest.raises(UserError, match=r"to.webhook is 'x'"):
        SinkSettings(webhook="x").make_sinks()
    with pytest.raises(UserError, match=r"give --to.json_lines FILE"):
        SinkSettings(anomalous_only=True).make_sinks()
