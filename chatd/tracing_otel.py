"""Traces for OpenTelemetry: of a chosen message a span ``message`` with ``accept``, ``queue``, ``commit``, ``fan_out``
below it, and ``deliver``, which ends when the first device of the recipient acknowledges, in whichever process that is.

Spans name no user, no conversation and no text: a message's id and seq lead to it, a connection's id to the log.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as OwnProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chatd import __version__
from chatd.model import Advance, Appended, Draft, Grown, Message, peer_of
from chatd.settings import TracingSettings

DELIVER_SPANS_MAX = 1_000
"""Spans ``deliver`` that wait for an acknowledgement; beyond, the oldest ends as not delivered."""
DELIVER_S_MAX = 60.0
"""One that waits for longer ends as not delivered, when the next one begins."""
EXPORT_S_MAX = 5.0
CLOSE_S_MAX = 3.0

log = structlog.get_logger("chatd.tracing")
_PROPAGATOR = TraceContextTextMapPropagator()


def own_provider(settings: TracingSettings) -> OwnProvider:
    """One that sends to ``tracing.endpoint``, from a thread of its own. What else is to be set, its headers or its
    queue, it reads from the variables ``OTEL_…`` of the environment.
    """
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "chatd"}))
    provider = OwnProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_S_MAX)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class OtelTracer:
    """A `chatd.tracing.Tracer`. ``provider`` makes the spans; None: one of its own, as the settings say.

    ``connected`` tells whether a user has a device here. ``now_s`` is monotonic, ``now_ms`` Unix time, ``random`` gives
    floats in [0, 1).
    """

    def __init__(
        self,
        settings: TracingSettings,
        provider: TracerProvider | None,
        *,
        connected: Callable[[str], bool],
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._own: OwnProvider | None = None
        if provider is None:
            provider = self._own = own_provider(settings)
        self._connected = connected
        self.now_s = now_s
        self._now_ms = now_ms
        self._random = random
        self.spans = provider.get_tracer("chatd", __version__)
        self.traceparent = ""
        self.telling: OtelTrace | None = None
        self._delivering: dict[tuple[str, str], list[Delivering]] = {}
        self._oldest: OrderedDict[Delivering, None] = OrderedDict()

    def begin(
        self, draft: Draft, received_s: float, *, connection: str = "", traceparent: str = ""
    ) -> OtelTrace | None:
        """See `Tracer`."""
        if traceparent and self._settings.follow:
            parent = _PROPAGATOR.extract({"traceparent": traceparent}, Context())
            caller = get_current_span(parent).get_span_context()
            if caller.is_valid:
                return OtelTrace(self, draft, parent, received_s, connection) if caller.trace_flags.sampled else None
        if self._random() >= self._settings.ratio:
            return None
        # Not in the current context: on a socket that is whatever was there when it opened.
        return OtelTrace(self, draft, Context(), received_s, connection)

    def heard(self, user: str, message: Message, traceparent: str) -> None:
        """See `Tracer`."""
        parent = _PROPAGATOR.extract({"traceparent": traceparent}, Context())
        self._deliver(user, message, parent, SpanKind.CONSUMER, self.offset_ns())

    def message(self, result: Appended, origin: object) -> None:
        """See `FanOut`."""
        trace, message = self.telling, result.message
        user = peer_of(message.conv, message.sender)
        if trace is not None and user is not None:
            self._deliver(user, message, trace.context, SpanKind.INTERNAL, trace.offset_ns)

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """See `FanOut`."""
        for one in list(self._delivering.get((grown.conv, grown.user), ())):
            if one.seq <= grown.delivered:
                self._end(one, delivered=True)

    async def close(self) -> None:
        """See `Tracer`. What a collector does not take within CLOSE_S_MAX is lost, which is logged."""
        while self._oldest:
            self._end(next(iter(self._oldest)), delivered=False)
        if self._own is None:
            return
        done, loop, shutdown = asyncio.Event(), asyncio.get_running_loop(), self._own.shutdown

        def end() -> None:
            shutdown()
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # Not of the loop's pool: what hangs there would keep the process from its end.
        threading.Thread(target=end, name="chatd-tracing-end", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await done.wait()
        except TimeoutError:
            log.warning("traces_lost", endpoint=self._settings.endpoint, waited_s=CLOSE_S_MAX)

    def offset_ns(self) -> int:
        """What makes a monotonic time Unix time. Taken once a span and its children, as the wall clock may be set."""
        return self._now_ms() * 1_000_000 - int(self.now_s() * 1e9)

    def _deliver(self, user: str, message: Message, parent: Context, kind: SpanKind, offset_ns: int) -> None:
        if user == message.sender or message.hidden or not self._connected(user):
            return
        now_s = self.now_s()
        while self._oldest:
            oldest = next(iter(self._oldest))
            if len(self._oldest) < DELIVER_SPANS_MAX and now_s < oldest.begun_s + DELIVER_S_MAX:
                break
            self._end(oldest, delivered=False)
        span = self.spans.start_span("deliver", parent, kind, start_time=int(now_s * 1e9) + offset_ns)
        one = Delivering((message.conv, user), message.seq, span, now_s, offset_ns)
        self._delivering.setdefault(one.key, []).append(one)
        self._oldest[one] = None

    def _end(self, one: Delivering, *, delivered: bool) -> None:
        del self._oldest[one]
        waiting = self._delivering[one.key]
        waiting.remove(one)
        if not waiting:
            del self._delivering[one.key]
        one.span.set_attribute("chatd.delivered", delivered)
        one.span.end(int(self.now_s() * 1e9) + one.offset_ns)


class Delivering:
    """A span that waits until the user of ``key`` (conversation, user) has what is up to ``seq``."""

    __slots__ = ("begun_s", "key", "offset_ns", "seq", "span")

    def __init__(self, key: tuple[str, str], seq: int, span: Span, begun_s: float, offset_ns: int) -> None:
        self.key, self.seq, self.span, self.begun_s, self.offset_ns = key, seq, span, begun_s, offset_ns


class OtelTrace:
    """A `chatd.tracing.Trace`: until the outcome is known it has times, and makes spans of them then."""

    __slots__ = ("_connection", "_draft", "_parent", "_root", "_times", "_tracer", "context", "offset_ns")

    def __init__(self, tracer: OtelTracer, draft: Draft, parent: Context, received_s: float, connection: str) -> None:
        self._tracer = tracer
        self._draft = draft
        self._parent = parent
        self._connection = connection
        self.offset_ns = tracer.offset_ns()
        self._times = [received_s]  # when each span below ``message`` began, in the order of `STAGES`
        self._root: Span
        self.context: Context

    def queued(self) -> None:
        """See `Trace`."""
        self._times.append(self._tracer.now_s())

    def taken(self) -> None:
        """See `Trace`."""
        self._times.append(self._tracer.now_s())

    def committed(self, message: Message) -> None:
        """See `Trace`."""
        self._times.append(self._tracer.now_s())
        self._begin()
        self._root.set_attribute("chatd.seq", message.seq)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self.context)
        self._tracer.traceparent, self._tracer.telling = carrier.get("traceparent", ""), self

    def told(self) -> None:
        """See `Trace`."""
        self._tracer.traceparent, self._tracer.telling = "", None
        self._end()

    def ended(self, code: str) -> None:
        """See `Trace`."""
        self._begin()
        self._root.set_attribute("chatd.outcome", code)
        if code != "duplicate":
            self._root.set_status(StatusCode.ERROR, code)
        self._end()

    def _begin(self) -> None:
        self._root = self._tracer.spans.start_span(
            "message",
            self._parent,
            SpanKind.SERVER,
            {
                "messaging.message.id": self._draft.id,
                "messaging.message.body.size": len(self._draft.body.encode()),
            },
            start_time=self._ns(self._times[0]),
        )
        if self._connection:
            self._root.set_attribute("chatd.connection", self._connection)
        self.context = set_span_in_context(self._root, self._parent)

    def _end(self) -> None:
        ends = [*self._times[1:], self._tracer.now_s()]
        for name, began_s, end_s in zip(STAGES, self._times, ends, strict=False):
            self._tracer.spans.start_span(name, self.context, start_time=self._ns(began_s)).end(self._ns(end_s))
        self._root.end(self._ns(ends[-1]))

    def _ns(self, at_s: float) -> int:
        return int(at_s * 1e9) + self.offset_ns


STAGES = ("accept", "queue", "commit", "fan_out")
