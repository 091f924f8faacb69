"""What Prometheus reads (AIVO-24). Labels come from closed sets: names of the table of routes, codes, channels."""

from __future__ import annotations

from collections import Counter as Counter_
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UntypedMetricFamily,
)
from prometheus_client.registry import Collector

from delivery.telemetry import DeliveryEvents, Labels
from push.sender import SenderStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENESS = (5, 10, 30, 60, 120, 150, 180, 300, 600, 3600, 4 * 3600)
_LIFETIMES = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)

#: Numbers that somebody else keeps, read when they are asked for: name without prefix -> value.
Reading = Callable[[], Mapping[str, float]]


class Metrics:
    """Every number of this process. A registry of its own, so that two applications in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stored = 0
        self._handed_over: Callable[[], float] = lambda: 0
        self._events: DeliveryEvents | None = None
        self.registry.register(_Delivered(self))
        self._answers = Histogram(
            "http_request_duration_seconds",
            "From the first byte of a request to the end of its answer.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused_tokens = Counter(
            "auth_failures",
            "Tokens and API keys that were refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.connection_duration = Histogram(
            "websocket_connection_duration_seconds",
            "How long connections lived.",
            buckets=_LIFETIMES,
            registry=self.registry,
        )
        self.closed = Counter(
            "websocket_connections_closed",
            "Connections that ended, by their close code.",
            ["code"],
            registry=self.registry,
        )
        self.delivery_latency = Histogram(
            "notification_delivery_latency_seconds",
            "From a notification's commit, on whatever node, to its frames in the hands of this node's transports.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.digest_lateness = Histogram(
            "digest_lateness_seconds",
            "From the minute that a person chose to their digest in the hands of the delivery; the spread is part of it.",
            buckets=_LATENESS,
            registry=self.registry,
        )
        self._children: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request, served or refused. route: a path of the table, or "other"."""
        key = (route, method, status)
        observe = self._children.get(key)
        if observe is None:
            observe = self._children[key] = self._answers.labels(route, method, str(status)).observe
        observe(seconds)

    def stored(self, count: int = 1) -> None:
        """So many notifications are in the inboxes they are for."""
        self._stored += count

    def read_handed_over(self, reading: Callable[[], float]) -> None:
        """reading: how many frames connections have been handed, read at each scrape."""
        self._handed_over = reading

    def read_deliveries(self, events: DeliveryEvents, depth: Callable[[], Mapping[str, int]]) -> None:
        """What the worker of this process does (EZ-13). depth: what waits, by channel, read at each scrape."""
        self._events = events
        self.registry.register(_Deliveries(events, depth))

    def read_pushes(self, stats: Callable[[], SenderStats], blocked: Callable[[], int]) -> None:
        """What push services have answered (AIVO-24), and how many endpoints led where nothing is sent to."""
        self.registry.register(_Pushes(stats, blocked))

    def delivered(self) -> Mapping[tuple[str, str], float]:
        """By channel and status (AIVO-24)."""
        ended = self._events.counts.ended if self._events is not None else {}
        return {
            ("in_app", "stored"): self._stored,
            ("websocket", "delivered"): self._handed_over(),
            **ended,
        }

    def token_refused(self, reason: str) -> None:
        self._refused_tokens.labels(reason).inc()

    def read_gauges(self, reading: Reading, help_texts: Mapping[str, str]) -> None:
        """Numbers that go up and down, read at each scrape."""
        self.registry.register(_Readings(reading, help_texts, GaugeMetricFamily))

    def say(self, name: str, help_text: str, **labels: str) -> None:
        """What does not change while the process runs: a gauge that is 1, with the words as labels."""
        Gauge(name, help_text, list(labels), registry=self.registry).labels(**labels).set(1)

    def read_counters(self, reading: Reading, help_texts: Mapping[str, str]) -> None:
        """Numbers that only grow, read at each scrape."""
        self.registry.register(_Readings(reading, help_texts, CounterMetricFamily))

    def text(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)


class _Delivered(Collector):
    """`notifications_delivered_total`: what is counted in two places under one name."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        [family] = self.describe()
        for labels, value in self._metrics.delivered().items():
            family.add_metric(labels, value)
        yield family

    def describe(self) -> list[CounterMetricFamily]:
        """The name, so that registering does not read."""
        text = "Notifications handed over, by the way they went and how that ended."
        return [CounterMetricFamily("notifications_delivered", text, labels=["channel", "status"])]


class _Deliveries(Collector):
    """EasyMO's ten, by their exact names: those that only grow without `_total` are therefore untyped."""

    def __init__(self, events: DeliveryEvents, depth: Callable[[], Mapping[str, int]]) -> None:
        self._events = events
        self._depth = depth

    def collect(self) -> Iterator[Metric]:
        counts = self._events.counts
        yield _gauge("notification_queue_depth", "Deliveries that wait, of all tenants.", self._depth())
        for name, text, value in (
            ("notification_worker_processed", "Attempts that a worker has concluded.", counts.processed),
            ("notification_worker_failures", "Faults of a worker.", counts.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, value in (
            ("optout", "Held back: the person, or the tenant, does not want it.", counts.filtered_optout),
            ("quiet_hours", "Put off to the end of quiet hours.", counts.filtered_quiet_hours),
            ("rate_limit", "Put off or held back by a rate limit.", counts.filtered_rate_limit),
        ):
            yield UntypedMetricFamily(f"notification_filtered_{name}", text, value=value)
        yield _by_labels("notification_sent", "Taken by a provider.", counts.sent)
        yield _by_labels("notification_failed", "Ended as failed or undelivered.", counts.failed)
        yield _by_labels("notification_deferred", "Attempts after which it waits.", counts.deferred)
        text = "Of what was sent or failed for good in the last 5 minutes, what was sent: 0-100."
        yield _gauge("notification_success_rate", text, self._events.success_rates())

    def describe(self) -> Iterable[Metric]:
        """Nothing: names that are used twice are found at the first scrape, by a test."""
        return []


class _Pushes(Collector):
    def __init__(self, stats: Callable[[], SenderStats], blocked: Callable[[], int]) -> None:
        self._stats = stats
        self._blocked = blocked

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        text = "Pushes, one for each try in each browser, by what became of them."
        sent = CounterMetricFamily("push_notifications_sent", text, labels=["status"])
        text = "The same by push service, for whoever asks which of them is in trouble."
        answers = CounterMetricFamily("push_service_answers", text, labels=["service", "status"])
        of_all: Counter_[str] = Counter_()
        for (service, status), count in stats.results.items():
            of_all[status] += count
            answers.add_metric([service, status], count)
        for status, count in of_all.items():
            sent.add_metric([status], count)
        yield sent
        yield answers
        text = "Endpoints and addresses that nothing was sent to, because of where they lead."
        yield CounterMetricFamily("push_endpoints_blocked", text, value=self._blocked())
        yield GaugeMetricFamily("push_waiting", "Pushes that wait for a turn.", value=stats.waiting)
        yield GaugeMetricFamily("push_in_flight", "Requests to push services.", value=stats.in_flight)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names that are used twice are found at the first scrape, by a test."""
        return []


def _gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["channel"])
    for channel, value in values.items():
        family.add_metric([channel], value)
    return family


def _by_labels(name: str, text: str, values: Mapping[Labels, int]) -> Metric:
    family = UntypedMetricFamily(name, text, labels=Labels._fields)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


class _Readings(Collector):
    def __init__(
        self,
        reading: Reading,
        help_texts: Mapping[str, str],
        family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    ) -> None:
        self._reading = reading
        self._help = help_texts
        self._family = family

    def collect(self) -> Iterator[Metric]:
        values = self._reading()
        for name, text in self._help.items():
            yield self._family(name, text, value=values[name])

    def describe(self) -> Iterable[Metric]:
        """The names, so that registering does not read."""
        return [self._family(name, text) for name, text in self._help.items()]
