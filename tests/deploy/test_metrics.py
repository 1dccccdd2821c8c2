"""A Prometheus parser reads the metrics, and a real Prometheus answers each query of the dashboard."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
from prometheus_client.parser import text_string_to_metric_families

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.live import Live
from lit_ad.deploy.metrics import Metrics
from tests.deploy.test_journal import detection, detector, write
from tests.deploy.test_live import STATUS
from tests.deploy.test_serve import served


def samples(metrics: Metrics) -> dict[str, float]:
    """Return the value of each metric, by its name and labels."""
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


def test_metrics_of_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(anomalous_rate=0.01, sample=0), 'line "1"') as journal:
        metrics = Metrics(journal, lambda: 0)
        for _ in range(4):
            assert write(journal, detection(150.0))
        journal.writer.dropped = 3
        found = samples(metrics)
    share = "[('category', ''), ('source', 'line \"1\"'), ('test', 'share')]"
    assert found[f"lit_ad_log_martingale{share}"] == journal.watch.tests['line "1"', ""]["share"].capital.log > 4.7
    assert found[f"lit_ad_drift_alarm{share}"] == 1
    assert found[f"lit_ad_drift_alarm{share.replace('share', 'scores')}"] == 0
    assert found["lit_ad_journal_dropped_rows_total[]"] == 3
    assert found["lit_ad_journal_dropped_pictures_total[]"] == 0


@contextmanager
def prometheus(folder: Path, scraped: int) -> Iterator[str]:
    """Run a Prometheus that reads a port five times a second. Yield its address."""
    config = folder / "prometheus.yml"
    config.write_text(f"""
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: lit_ad
    static_configs: [{{targets: ["127.0.0.1:{scraped}"]}}]
""")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, query: str) -> list[Any]:
    opener = build_opener(ProxyHandler({}))
    with opener.open(f"{address}/api/v1/query?{urlencode({'query': query})}", timeout=10) as answer:
        told = json.load(answer)
    assert told["status"] == "success", told
    return list(told["data"]["result"])


def queries() -> list[str]:
    """Return the queries of the dashboard, with its variables set."""
    dashboard = json.loads(files("lit_ad.deploy").joinpath("grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [text.replace("$instance", ".*").replace("$__rate_interval", "3s") for text in asked]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus: apt-get install prometheus")
def test_a_prometheus_answers_each_query_of_the_dashboard(tmp_path: Path) -> None:
    live = Live(lambda: STATUS)
    settings = JournalSettings(sample=0)
    with (
        Journal(tmp_path / "journal", detector(), settings) as journal,
        served(detector(), journal=journal, live=live) as port,
    ):
        (tmp_path / "prometheus").mkdir()
        with prometheus(tmp_path / "prometheus", port) as address:
            end = time.monotonic() + 60
            while True:
                live.show("a.png", detection(150.0), 0.01)
                live.show("b.png", detection(5.0), 0.01)
                journal.record(detection(5.0), 0.01)
                time.sleep(0.1)
                try:
                    if len(queries()) == sum(bool(ask(address, query)) for query in queries()):
                        break
                except OSError:  # it is not there yet
                    pass
                silent = "its log: " + (tmp_path / "prometheus/log").read_text()[-500:]
                assert time.monotonic() < end, silent
            assert ask(address, "lit_ad_line_refused_total")[0]["value"][1] == "3"
            (share,) = ask(address, queries()[1])
            assert float(share["value"][1]) == pytest.approx(0.5, abs=0.1)
            (median,) = ask(address, next(text for text in queries() if "0.5, sum by (le)" in text))
            assert 0.005 < float(median["value"][1]) <= 0.01


def test_the_dashboard_asks_only_for_metrics_that_exist(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        write(journal, detection(5.0))
        metrics = Metrics(journal, lambda: 0, lambda: STATUS)
        metrics.observe(detection(5.0), 0.1)
        known = {name.partition("[")[0] for name in samples(metrics)}
    asked = {word for text in queries() for word in re.findall(r"lit_ad_\w+", text)}
    assert asked and asked <= known, asked - known
