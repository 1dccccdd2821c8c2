"""`lit-ad serve`: what it refuses before it serves. tests/deploy/test_serve.py sends requests."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.commands.serve import serve
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.errors import UserError

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


def test_other_machines_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_AD_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"other machines can reach 0.0.0.0: set .* LIT_AD_TOKEN"):
        serve(tmp_path / "model.onnx", host="0.0.0.0")
    monkeypatch.setenv("LIT_AD_TOKEN", "geheim")
    with pytest.raises(UserError, match=r"there is no detector"):
        serve(tmp_path / "model.onnx", host="0.0.0.0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 99999}, "--port is 99999, but it must lie between 0 and 65535"),
        ({"watch": JournalSettings(delta=0.1)}, "--watch needs a journal: give --journal DIR"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        serve(tmp_path / "model.onnx", **options)
