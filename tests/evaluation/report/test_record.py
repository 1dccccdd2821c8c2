"""The record of a run's time, memory and environment."""

from pathlib import Path

import pytest
import torch

from lit_ad.errors import UserError
from lit_ad.evaluation.report.record import RECORD, Record, Took, environment


def test_a_record_survives_json(tmp_path: Path) -> None:
    assert Record.load(tmp_path) is None
    record = Record("STFPM", None, Took(1.5, 7, 2**30, None, environment(2, ["A card"])), {"nut": [0.5, 1.0]})
    record.save(tmp_path)
    assert Record.load(tmp_path) == record


def test_the_environment_names_processor_devices_and_versions() -> None:
    found = environment(2, ["A card"])
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert (found["processes"], found["accelerator"]) == ("2", "A card")
    assert environment(1, [])["accelerator"] == "none"


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"training": null}', '{"training": {"hours": 3}, "test": null}'])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match=r"record.json is no record of a run .*test the run again"):
        Record.load(tmp_path)
