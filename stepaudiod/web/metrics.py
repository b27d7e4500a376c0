"""`GET /metrics`: counters in Prometheus's form. Its library is imported at the first such request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudiod import __version__
from stepaudiod.counters import OUTCOMES, Counters, Histogram
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.requests import KINDS
from stepaudiod.web.endpoint import DAEMON, Answer, endpoint

if TYPE_CHECKING:
    from prometheus_client import Metric

UNROUTED = "none"

Values = Mapping[tuple[str, ...], float]
"""Numbers by label values."""


PROMETHEUS: dict[str, tuple[str, ...]] = {
    "text/plain; version=0.0.4; charset=utf-8": (),
    "application/openmetrics-text; version=1.0.0; charset=utf-8": (),
}


@endpoint("GET /metrics", "getMetrics", DAEMON, {200: Answer("The counters.", PROMETHEUS)})
async def metrics(request: Request) -> Response:
    """Get counters in Prometheus's form, or as OpenMetrics where `Accept` names it.

    Starts no worker.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(ServiceCollector(request.app.state.service))
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=media_type)


class ServiceCollector:
    """The counters and state of the service as families of Prometheus."""

    def __init__(self, service: Dispatcher) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._now()
        yield from _requests(self._service.counters)
        yield from _worker(self._service.counters)

    def _now(self) -> Iterator[Metric]:
        """The current state."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        service, worker = self._service, self._service.worker
        if worker is not None and worker.is_lost:
            worker = None
        yield InfoMetricFamily("stepaudiod_build", "The running version", value={"version": __version__})
        for name, text, value in (
            ("requests_active", "Requests in progress", service.active),
            ("requests_waiting", "Requests in the queue", service.queued),
            ("worker_running", "1 while there is a worker", worker is not None),
            (
                "worker_busy",
                "1 if the worker had work at its last heartbeat",
                worker is not None and worker.is_busy,
            ),
        ):
            yield GaugeMetricFamily(f"stepaudiod_{name}", text, value=float(value))
        memory = GaugeMetricFamily(
            "stepaudiod_gpu_memory_bytes", "GPU memory of the worker, at its last heartbeat", labels=["state"]
        )
        for state, size_bytes in ({} if worker is None else worker.gpu_memory).items():
            memory.add_metric([state.removesuffix("_bytes")], size_bytes)
        yield memory


def _requests(counters: Counters) -> Iterator[Metric]:
    every: Values = {
        (kind, outcome): counters.requests[kind, outcome] for kind in KINDS for outcome in OUTCOMES
    }
    yield _counter("requests", "Requests for work, by how they ended", ("kind", "outcome"), every)
    yield _histogram("request_duration_seconds", "From arrival to end", "kind", counters.duration)
    yield _histogram(
        "first_audio_seconds", "From a request's arrival to its first audio", "engine", counters.first_audio
    )
    yield _histogram(
        "real_time_factor", "Seconds of work for a second of audio", "engine", counters.real_time_factor
    )
    yield _counter("audio_seconds", "Audio made", ("engine",), _by_one(counters.audio_s))
    answers: Values = {(endpoint, str(status)): n for (endpoint, status), n in counters.answers.items()}
    yield _counter("responses", "HTTP responses", ("endpoint", "status"), answers)


def _worker(counters: Counters) -> Iterator[Metric]:
    deaths: Values = {(reason,): counters.worker_deaths[reason] for reason in ("died", "hung")}
    yield _counter("worker_starts", "Workers started", (), {(): counters.worker_starts})
    yield _counter("worker_deaths", "Workers that ended unexpectedly", ("reason",), deaths)
    yield _counter("loads", "Engines loaded", ("engine",), _by_one(counters.loads))
    yield _counter("load_seconds", "Time that loading took", ("engine",), _by_one(counters.load_s))
    yield _counter("unloads", "Engines unloaded", ("engine",), _by_one(counters.unloads))


def _by_one(values: Mapping[str, float]) -> Values:
    return {(name,): value for name, value in values.items()}


def _counter(name: str, text: str, labels: Iterable[str], values: Values) -> Metric:
    """A family of counters; `_total` is added to its name."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"stepaudiod_{name}", text, labels=list(labels))
    for key, value in sorted(values.items()):
        family.add_metric(list(key), float(value))
    return family


def _histogram(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"stepaudiod_{name}", text, labels=[label])
    for key, histogram in sorted(values.items()):
        family.add_metric([key], histogram.buckets(), histogram.sum)
    return family


class CountAnswers:
    """Counts every response by its handler, such as `voices.delete`, and its status."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def count(status: int) -> None:
            self._counters.answers[_name(scope), status] += 1

        has_begun = False

        async def send_counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception:
            if not has_begun:
                count(500)
            raise


def _name(scope: Scope) -> str:
    """The handler as `module.function`; an unknown path or a refused request has none."""
    endpoint = scope.get("endpoint")
    if not isinstance(endpoint, FunctionType):
        return UNROUTED
    return f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}"
