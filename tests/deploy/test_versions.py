"""Each detector enters a journal's table of versions once, and keeps its id."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.versions import Versions, hash_filled
from tests.deploy.test_journal import DECISION, detection, detector


def test_a_detector_keeps_its_number(tmp_path: Path) -> None:
    first, second = detector(), detector(DECISION.with_rate(0.1))
    for judging, count in ((first, 3), (second, 1), (first, 1)):
        with Journal(tmp_path, judging, JournalSettings(sample=0)) as journal:
            for _ in range(count):
                journal.record(detection(150.0), 0.1)
    versions = Versions(JournalFile(tmp_path, alone=False))
    assert [(version.id, version.about) for version in versions.all()] == [
        (1, "STFPM, fp32, threshold 95"),
        (2, "STFPM, fp32, threshold 90"),
    ]
    assert versions.images() == {1: {"anomalous": 4}, 2: {"anomalous": 1}}


def test_a_version_keeps_its_state_file_and_parent(tmp_path: Path) -> None:
    versions, card = Versions(JournalFile(tmp_path, alone=True)), detector().card
    assert versions.register(card, "shipped", file="detectors/1.ckpt") == versions.register(card) == 1
    exported = replace(card, decision=replace(DECISION, highest={}))  # names no image
    named = replace(card, decision=replace(DECISION, highest={"": [(100.0, "good/1.png")]}))
    assert versions.register(exported) == versions.register(named) == 1
    assert versions.register(replace(card, decision=None), parent=1, report="{}") == 2
    first, second = versions.all()
    assert (first.state, first.file, first.parent) == ("shipped", "detectors/1.ckpt", None)
    assert (second.state, second.parent, second.report, second.about) == (
        "judged",
        1,
        "{}",
        "STFPM, fp32, no threshold",
    )
    versions.set_state(1, "retired")
    assert versions.all()[0].state == "retired"


def test_fields_that_a_later_lit_ad_adds_make_no_new_version() -> None:
    earlier = {"scores": {"nut": [0.0, 1.0]}, "by_hand": {"nut": 0.0}}
    later: dict[str, Any] = {
        "new": None,
        "scores": {"nut": [0.0, 1.0], "bolt": []},
        "by_hand": {"nut": 0.0},
        "newer": {"nut": {}},
    }
    assert hash_filled([earlier]) == hash_filled([later]) != hash_filled([{**earlier, "by_hand": {}}])
