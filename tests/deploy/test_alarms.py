"""An alarm shows images from before and after the change, and which property of their looks changed most."""

import time
from pathlib import Path

import numpy as np
import pytest

from lit_ad.deploy import journal as journal_module
from lit_ad.deploy.alarms import describe_alarm
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.detection import Detection
from tests.deploy.test_journal import DECISION, detector


@pytest.mark.parametrize("set_back", [0, 3600])  # seconds by which the clock is set back at image 150
def test_an_alarm_tells_that_the_images_became_brighter(
    set_back: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, read_clock = np.random.default_rng(0), time.time
    monkeypatch.setattr(journal_module, "LOOK_INTERVAL", 0.0)  # each image is looked at
    with Journal(tmp_path, detector(), JournalSettings(sample=0.5), "line") as journal:
        for number in range(260):
            changed = number >= 200
            if number == 150:
                monkeypatch.setattr(time, "time", lambda: read_clock() - set_back)
            pixels = generator.normal(130 if changed else 100, 5, (32, 32, 3)).astype(np.uint8)
            score = generator.uniform(60, 94) if changed else generator.uniform(1, 94)
            journal.record(Detection(pixels, score, None, (0, 0, 0, 0), DECISION), 0.1)
            time.sleep(0.0005)  # so that times tell images apart
    file = JournalFile(tmp_path, alone=False)
    (event,) = file.events(kind="alarm")
    assert event.since is not None and event.time - 1 < event.since < event.time
    assert "; of the images' looks, brightness changed most: from 99.5 to 129.5 (+" in event.reason
    alarm = describe_alarm(file, event)
    assert len(alarm["before"]) == len(alarm["after"]) == 4
    assert max(alarm["before"]) < min(alarm["after"]) <= event.image
    assert alarm["moves"][0]["name"] == "brightness" and alarm["moves"][0]["deviations"] > 3


def test_an_alarm_without_the_time_of_the_change_has_no_moves(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    file.add_event("alarm", "line", "", "drift")
    (event,) = file.events()
    alarm = describe_alarm(file, event)
    assert (alarm["reason"], alarm["before"], alarm["moves"]) == ("drift", [], [])
