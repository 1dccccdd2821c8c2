"""The service's metrics for a Prometheus server: GET /metrics. Their names begin with lit_ad_."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lit_ad.deploy.journal import Journal
from lit_ad.detector.detection import Detection

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)  # bins of the histogram of latencies
_P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(tenth / 10 for tenth in range(1, 11)))


class Metrics:
    """Counts and histograms since the start of the service, and the states of the drift tests.

    Args:
        journal: The service's journal. None: it has none.
        waiting: Returns the number of images that wait or are being judged.
        line: Returns the status of the watched line: see `lit_ad.line.watching.Watching.status`. None: no line.
    """

    def __init__(
        self, journal: Journal | None, waiting: Callable[[], int], line: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self.registry = CollectorRegistry()
        self.images = Counter("lit_ad_images", "Judged images.", ["verdict", "category"], registry=self.registry)
        self.latency = Histogram(
            "lit_ad_latency_seconds",
            "Seconds from the image file to the verdict.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.p_value = Histogram(
            "lit_ad_p_value", "P-values of judged images.", ["category"], buckets=_P_VALUES, registry=self.registry
        )
        Gauge("lit_ad_waiting", "Images that wait or are being judged.", registry=self.registry).set_function(waiting)
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
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class _JournalCollector(Collector):
    """Reads the metrics of a journal at each request."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        labels = ["test", "source", "category"]
        about = "Natural logarithm of the martingale of a drift test."
        log = GaugeMetricFamily("lit_ad_log_martingale", about, labels=labels)
        about = "Whether a drift test has an alarm that nobody has reset: 1 or 0."
        alarm = GaugeMetricFamily("lit_ad_drift_alarm", about, labels=labels)
        for (source, category), name, test in self.journal.watch.list_tests():
            log.add_metric([name, source, category], test.capital.log)
            alarm.add_metric([name, source, category], float(test.alarm is not None))
        yield log
        yield alarm
        for what, count in (("rows", self.journal.dropped), ("pictures", self.journal.dropped_pictures)):
            about = f"{what.capitalize()} that could not be written."
            yield CounterMetricFamily(f"lit_ad_journal_dropped_{what}", about, value=count)


class _LineCollector(Collector):
    """Reads the metrics of a watched line at each request."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        status = self.status()
        yield GaugeMetricFamily("lit_ad_line_waiting", "Images of the source that wait.", value=status["waiting"])
        trouble = float(bool(status["trouble"]))
        yield GaugeMetricFamily("lit_ad_line_trouble", "Whether the source is in trouble: 1 or 0.", value=trouble)
        yield CounterMetricFamily("lit_ad_line_refused", "Images that cannot be read.", value=status["refused"])
        about = "Frames that the camera gave faster than the detector judges, and that were not judged."
        yield CounterMetricFamily("lit_ad_line_passed_over", about, value=status["passed_over"])
        dropped = CounterMetricFamily("lit_ad_sink_dropped", "Messages that were not delivered.", labels=["sink"])
        waiting = GaugeMetricFamily("lit_ad_sink_waiting", "Messages that wait for delivery.", labels=["sink"])
        for name, sink in status["sinks"].items():
            dropped.add_metric([name], sink["dropped"])
            waiting.add_metric([name], sink["waiting"])
        yield dropped
        yield waiting
