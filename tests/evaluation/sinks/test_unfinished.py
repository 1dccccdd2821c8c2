"""A prediction resumes an unfinished one only with the same decision, and reads all of its complete lines."""

from pathlib import Path

import numpy as np
import pytest

from lit_ad.annotations import Findings
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.evaluation.sinks.unfinished import Line, choose_directory, format_line, keep_decision, read_part

DECISION = Decision({"": np.arange(9.0)}, false_alarm=0.2)


def test_another_decision_does_not_resume(tmp_path: Path) -> None:
    keep_decision(tmp_path, DECISION, resumed=False, first=True)
    keep_decision(tmp_path, DECISION, resumed=True, first=True)
    for decision in (DECISION.with_rate(0.3), None):
        with pytest.raises(UserError, match=r"has unfinished predictions with other settings of decision: give the sa"):
            keep_decision(tmp_path, decision, resumed=True, first=False)
    keep_decision(tmp_path, None, resumed=False, first=True)  # no image was done
    keep_decision(tmp_path, None, resumed=True, first=True)


def test_a_line_that_a_kill_cut_off_is_not_read(tmp_path: Path) -> None:
    findings: Findings = {"size": [4, 4], "regions": [{"area": 3}]}
    lines = [Line("a\nb.png", 0.5, "", findings), Line("c.png", 1.0, "unreadable")]
    part = tmp_path / "scores.0.part"
    part.write_text("".join(format_line(*line) for line in lines) + format_line("d.png", 2.0, "")[:-3])
    assert list(read_part(part)) == lines


def test_a_directory_that_holds_predictions_is_not_written_again(tmp_path: Path) -> None:
    wanted, about = tmp_path / "predictions", {"weights": "w"}
    assert choose_directory(wanted, None, about) == wanted
    wanted.mkdir()
    (wanted / "scores.csv").touch()
    assert choose_directory(wanted, None, about) == tmp_path / "predictions-2"
    with pytest.raises(UserError, match=r"predictions holds predictions already: give another predictions.output"):
        choose_directory(tmp_path / "any", wanted, about)
