"""Prometheus metrics: one registry per application. Gauges of slow changes are set when Prometheus scrapes."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def _counter(name: str, about: str, *labels: str) -> Counter:
    return Counter(f"forecaster_{name}", about, labels, registry=None)


def _gauge(name: str, about: str, *labels: str) -> Gauge:
    return Gauge(f"forecaster_{name}", about, labels, registry=None)


def _histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"forecaster_{name}", about, labels, buckets=buckets, registry=None)


@dataclass
class Metrics:
    """The metrics of one application. To add a metric, add a field."""

    requests: Counter = field(
        default_factory=lambda: _counter("requests", "Answered requests.", "method", "route", "status")
    )
    latency: Histogram = field(
        default_factory=lambda: _histogram("request_seconds", "Time from request to answer.", _SECONDS, "route")
    )
    running: Gauge = field(default_factory=lambda: _gauge("requests_running", "Requests being answered."))
    inference: Histogram = field(
        default_factory=lambda: _histogram(
            "inference_seconds", "Time to compute a batch of forecasts.", _SECONDS, "model"
        )
    )
    batch: Histogram = field(default_factory=lambda: _histogram("batch_size", "Series in a batch.", _SIZES, "model"))
    writing: Histogram = field(
        default_factory=lambda: _histogram("ledger_write_seconds", "Time from forecast to commit.", _SECONDS)
    )
    waiting: Gauge = field(default_factory=lambda: _gauge("ledger_waiting", "Answers waiting to be written."))
    load_failures: Counter = field(
        default_factory=lambda: _counter(
            "load_failures", "Failed loads and syncs; the previous version stays.", "where"
        )
    )
    shadow_failures: Counter = field(
        default_factory=lambda: _counter("shadow_failures", "Requests that a challenger failed to forecast.", "model")
    )
    version: Gauge = field(
        default_factory=lambda: _gauge("served_version", "The version behind an alias.", "model", "alias")
    )
    age: Gauge = field(
        default_factory=lambda: _gauge(
            "served_version_age_seconds", "Time since the served version was created.", "model", "alias"
        )
    )
    relative_mae: Gauge = field(
        default_factory=lambda: _gauge(
            "realised_relative_mae", "Realised MAE divided by the last value's; above 1 is worse.", "model", "version"
        )
    )
    coverage: Gauge = field(
        default_factory=lambda: _gauge(
            "realised_coverage", "Share of actuals inside the interval.", "model", "version", "level"
        )
    )
    scores: Gauge = field(default_factory=lambda: _gauge("realised_scores", "Scored steps.", "model", "version"))
    drift: Gauge = field(
        default_factory=lambda: _gauge(
            "input_drift_psi", "Drift of the inputs from the training data.", "model", "version", "what"
        )
    )
    retrainings: Counter = field(
        default_factory=lambda: _counter("retrainings_asked", "Retrainings requested on evidence.", "model")
    )
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Register every metric."""
        for metric in vars(self).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                self.registry.register(metric)

    def count_refused(self, status: int) -> None:
        """Count a request that was refused before it was routed."""
        self.requests.labels("any", "none", status).inc()

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
