"""`GET /metrics`: counters in Prometheus's form. Its library is imported at the first such request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudiod import __version__
from stepaudiod.counters import OUTCOMES, Counters, Histogram
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.requests import KINDS
from stepaudiod.version import COMMIT
from stepaudiod.web.endpoint import DAEMON, Answer, endpoint

if TYPE_CHECKING:
    from prometheus_client import Metric

UNROUTED = "none"

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
        counters = self._service.counters
        requests = {
            (kind, outcome): counters.requests[kind, outcome] for kind in KINDS for outcome in OUTCOMES
        }
        deaths = {reason: counters.worker_deaths[reason] for reason in ("died", "hung")}
        yield from self._now()
        yield _counter("requests", "Requests for work, by how they ended", requests, "kind", "outcome")
        yield _histogram("request_duration_seconds", "From arrival to end", counters.duration, "kind")
        first_audio = "From a request's arrival to its first audio"
        yield _histogram("first_audio_seconds", first_audio, counters.first_audio, "engine")
        real_time_factor = "Seconds of work for a second of audio"
        yield _histogram("real_time_factor", real_time_factor, counters.real_time_factor, "engine")
        yield _counter("audio_seconds", "Audio made", counters.audio_s, "engine")
        yield _counter("responses", "HTTP responses", counters.answers, "endpoint", "status")
        yield _counter("worker_starts", "Workers started", {(): counters.worker_starts})
        yield _counter("worker_deaths", "Workers that ended unexpectedly", deaths, "reason")
        yield _counter("loads", "Engines loaded", counters.loads, "engine")
        yield _counter("load_seconds", "Time that loading took", counters.load_s, "engine")
        yield _counter("unloads", "Engines unloaded", counters.unloads, "engine")
        checkpoints = {outcome: counters.checkpoints[outcome] for outcome in ("done", "failed")}
        yield _counter("checkpoints", "Workers that left the GPU to doze", checkpoints, "outcome")
        restores = {outcome: counters.restores[outcome] for outcome in ("done", "failed", "no_room")}
        yield _counter("restores", "Dozing workers put back on the GPU", restores, "outcome")
        yield _counter("restore_seconds", "Time that restoring took", {(): counters.restore_s})

    def _now(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        service, worker = self._service, self._service.worker
        if worker is not None and worker.is_lost:
            worker = None
        is_busy = worker is not None and worker.is_busy
        built = {"version": __version__, "commit": COMMIT}
        yield InfoMetricFamily("stepaudiod_build", "The running version and its commit", value=built)
        for name, text, value in (
            ("requests_active", "Requests in progress", service.active),
            ("requests_waiting", "Requests in the queue", service.queued),
            ("worker_running", "1 while there is a worker", worker is not None),
            ("worker_busy", "1 if the worker had work at its last heartbeat", is_busy),
            ("worker_dozing", "1 while the worker's memory is not on the GPU", service.is_dozing),
        ):
            yield GaugeMetricFamily(f"stepaudiod_{name}", text, value=float(value))
        memory = GaugeMetricFamily(
            "stepaudiod_gpu_memory_bytes", "GPU memory of the worker, at its last heartbeat", labels=["state"]
        )
        for state, size_bytes in ({} if worker is None else worker.gpu_memory).items():
            memory.add_metric([state.removesuffix("_bytes")], size_bytes)
        yield memory


def _counter(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Metric:
    """A family of counters, whose keys are a label's value or several; `_total` is added to its name."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"stepaudiod_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric([key] if isinstance(key, str) else [str(each) for each in key], float(value))
    return family


def _histogram(name: str, text: str, values: Mapping[str, Histogram], label: str) -> Metric:
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
        has_begun = False

        async def send_counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._counters.answers[_name(scope), message["status"]] += 1
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception:
            if not has_begun:
                self._counters.answers[_name(scope), 500] += 1
            raise


def _name(scope: Scope) -> str:
    """The handler as `module.function`; an unknown path or a refused request has none."""
    endpoint = scope.get("endpoint")
    if not isinstance(endpoint, FunctionType):
        return UNROUTED
    return f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}"
