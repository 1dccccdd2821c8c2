"""Each message is appended as a line at once, and messages lost to a full disk are counted."""

from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.line.sinks.json_lines import JsonLines


def test_messages_are_appended_as_lines(tmp_path: Path) -> None:
    for text in ("1", "2"):
        sink = JsonLines(str(tmp_path / "new/out.jsonl"))
        sink.send(text)
        assert (tmp_path / "new/out.jsonl").read_text().endswith(f"{text}\n")
        sink.close()
    assert (tmp_path / "new/out.jsonl").read_text() == "1\n2\n" and sink.status()["sent"] == 1


def test_messages_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    sink = JsonLines("-")
    sink.send("{}")
    sink.close()
    assert capsys.readouterr().out == "{}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_messages_lost_to_a_full_disk_are_counted() -> None:
    sink = JsonLines("/dev/full")
    sink.send("{}")
    sink.close()
    assert sink.dropped == 1 and "No space left" in sink.trouble


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give another --to.json_lines"):
        JsonLines(str(tmp_path))
