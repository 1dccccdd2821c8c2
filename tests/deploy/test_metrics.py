"""A Prometheus parser reads what the service counts."""

from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.metrics import Metrics
from tests.deploy.test_journal import detection, detector


def samples(metrics: Metrics) -> dict[str, float]:
    """Of each name and its labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_verdicts_latencies_and_p_values() -> None:
    metrics = Metrics(None, lambda: 7)
    for score, seconds in ((150.0, 0.004), (5.0, 0.3), (6.0, 100)):
        metrics.observe(detection(score), seconds)
    metrics.observe(detection(5.0, None), 0.3)
    found = samples(metrics)
    assert all(name.startswith("lit_ad_") for name in found)
    counts = {name: value for name, value in found.items() if name.startswith("lit_ad_images_total")}
    assert list(counts.values()) == [1, 2, 1]
    assert found["lit_ad_images_total[('category', ''), ('verdict', 'nominal')]"] == 2
    assert found["lit_ad_latency_seconds_bucket[('le', '0.005')]"] == 1
    assert found["lit_ad_latency_seconds_count[]"] == 4
    assert found["lit_ad_p_value_bucket[('category', ''), ('le', '0.01')]"] == 1
    assert found["lit_ad_p_value_count[('category', '')]"] == 3
    assert found["lit_ad_waiting[]"] == 7
    assert not any("journal" in name or "martingale" in name for name in found)


def test_the_journals_numbers(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(anomalous_rate=0.01, sample=0), 'line "1"') as journal:
        metrics = Metrics(journal, lambda: 0)
        for _ in range(4):
            assert journal.record(detection(150.0), 0.1).result(30)
        journal.writer.dropped = 3
        found = samples(metrics)
    share = "[('category', ''), ('source', 'line \"1\"'), ('test', 'share')]"
    assert found[f"lit_ad_log_martingale{share}"] == journal.watch.tests['line "1"', ""]["share"].capital.log > 4.7
    assert found[f"lit_ad_drift_alarm{share}"] == 1
    assert found[f"lit_ad_drift_alarm{share.replace('share', 'scores')}"] == 0
    assert found["lit_ad_journal_dropped_rows_total[]"] == 3
    assert found["lit_ad_journal_dropped_pictures_total[]"] == 0
