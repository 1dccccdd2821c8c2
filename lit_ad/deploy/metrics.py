"""What a Prometheus server asks the service for: GET /metrics. Names begin with lit_ad_."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lit_ad.deploy.journal import Journal
from lit_ad.detector.detection import Detection

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(tenth / 10 for tenth in range(1, 11)))


class Metrics:
    """Counts and histograms since the service began, and how the tests for drift stand.

    Args:
        journal: Of the service, if it has one.
        waiting: Says how many images are waiting or being judged.
        line: Says how the line stands that is watched, if one is.
    """

    def __init__(
        self, journal: Journal | None, waiting: Callable[[], int], line: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self.registry = CollectorRegistry()
        self.images = Counter("lit_ad_images", "Judged images.", ["verdict", "category"], registry=self.registry)
        self.latency = Histogram(
            "lit_ad_latency_seconds", "From the image file to the verdict.", buckets=SECONDS, registry=self.registry
        )
        self.p_value = Histogram(
            "lit_ad_p_value", "Of judged images.", ["category"], buckets=P_VALUES, registry=self.registry
        )
        Gauge("lit_ad_waiting", "Images waiting or being judged.", registry=self.registry).set_function(waiting)
        if journal is not None:
            self.registry.register(_JournalCollector(journal))
        if line is not None:
            self.registry.register(_LineCollector(line))

    def observe(self, detection: Detection, seconds: float) -> None:
        """Count a verdict."""
        verdict = {None: "no threshold", True: "anomalous", False: "nominal"}[detection.anomalous]
        self.images.labels(verdict, detection.category or "").inc()
        self.latency.observe(seconds)
        if detection.p_value is not None:
            self.p_value.labels(detection.category or "").observe(detection.p_value)

    def text(self) -> bytes:
        """What the server reads."""
        return generate_latest(self.registry)


class _JournalCollector(Collector):
    """Reads a journal's numbers when they are asked for."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        labels = ["test", "source", "category"]
        log = GaugeMetricFamily("lit_ad_log_martingale", "Of each test for drift, natural logarithm.", labels=labels)
        alarm = GaugeMetricFamily("lit_ad_drift_alarm", "Whether the alarm of a test stands: 1 or 0.", labels=labels)
        for (source, category), name, test in self.journal.watch.every():
            log.add_metric([name, source, category], test.capital.log)
            alarm.add_metric([name, source, category], float(test.alarm is not None))
        yield log
        yield alarm
        for what, count in (("rows", self.journal.dropped), ("pictures", self.journal.dropped_pictures)):
            yield CounterMetricFamily(f"lit_ad_journal_dropped_{what}", f"{what} that were not written.", value=count)


class _LineCollector(Collector):
    """Reads the numbers of a watched line when they are asked for."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        status = self.status()
        yield GaugeMetricFamily("lit_ad_line_waiting", "Images of the source that wait.", value=status["waiting"])
        trouble = float(bool(status["trouble"]))
        yield GaugeMetricFamily("lit_ad_line_trouble", "Whether the source is in trouble: 1 or 0.", value=trouble)
        yield CounterMetricFamily("lit_ad_line_refused", "Images that cannot be read.", value=status["refused"])
        about = "Frames of a camera that came faster than they are judged."
        yield CounterMetricFamily("lit_ad_line_passed_over", about, value=status["passed_over"])
        dropped = CounterMetricFamily("lit_ad_sink_dropped", "Messages that were not delivered.", labels=["sink"])
        waiting = GaugeMetricFamily("lit_ad_sink_waiting", "Messages that are to be delivered.", labels=["sink"])
        for name, sink in status["sinks"].items():
            dropped.add_metric([name], sink["dropped"])
            waiting.add_metric([name], sink["waiting"])
        yield dropped
        yield waiting
