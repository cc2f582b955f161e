"""Traced messages: what spans tell of their way, how many are traced, and that tracing costs nobody a message."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, TypeAlias, cast

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from chatd import protocol
from chatd.model import Advance, Appended, Draft, Grown, Message
from chatd.settings import TracingSettings
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing import ChatServer
from chatd.testing.bus import Hub, LoopBoard
from chatd.testing.speaker import Speaker
from chatd.tracing_otel import DELIVER_S_MAX, DELIVER_SPANS_MAX, STAGES, OtelTracer

CONV = "alice:bob"
SECRET = "the words themselves"
USERS = ("alice", "bob", "carol")
ALL: dict[str, Any] = {"tracing.ratio": 1.0}
PATIENCE_S = 30.0
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED, UNTRACED = (f"00-{CALLER}-00f067aa0ba902b7-0{flag}" for flag in (1, 0))

Collected: TypeAlias = tuple[TracerProvider, InMemorySpanExporter]


def collecting() -> Collected:
    """What a program has that traces itself, and what it collected."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


class Traced:
    """A server, all of whose messages are traced; each device that enters is caught up."""

    def __init__(self, stack: AsyncExitStack, server: ChatServer, exporter: InMemorySpanExporter) -> None:
        self._stack, self.server, self._exporter = stack, server, exporter

    async def enter(self, user: str) -> Speaker:
        speaker = await Speaker.connect(self.server.url, await self.server.token(user))
        self._stack.push_async_callback(speaker.close)
        await speaker.until(protocol.CaughtUp)
        return speaker

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """What ended so far, in that order."""
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span


@asynccontextmanager
async def traced(**more: Any) -> AsyncIterator[Traced]:
    provider, exporter = collecting()
    settings = ALL | more.pop("settings", {})
    async with (
        AsyncExitStack() as stack,
        ChatServer(users=USERS, settings=settings, tracer_provider=provider, **more) as server,
    ):
        yield Traced(stack, server, exporter)


@pytest.fixture
async def here() -> AsyncIterator[Traced]:
    async with traced(store="sqlite") as here:
        yield here


def say(text: str = SECRET, to: str = "bob", id: str | None = None) -> protocol.Send:
    return protocol.Send(id=id or protocol.new_message_id(), to=to, body=text)


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def post(url: str, token: str, traceparent: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} | ({"traceparent": traceparent} if traceparent else {})
    body = {"to": "bob", "body": SECRET, "id": protocol.new_message_id()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/messages", headers=headers, json=body) as answer,
    ):
        return answer.status


# --- what is told -----------------------------------------------------------------------------------------


async def test_the_way_of_a_message_step_by_step(here: Traced) -> None:
    alice, bob = await here.enter("alice"), await here.enter("bob")
    frame = say()
    await alice.ask(frame, protocol.Sent)
    await bob.until(protocol.Messages)
    assert here.spans("deliver") == []  # he has it, but has not said so
    await bob.ask(protocol.Ack(conv=CONV, seq=1, ref=1), protocol.Ok)
    root, deliver = here.one("message"), here.one("deliver")
    steps = [here.one(name) for name in STAGES]
    assert len(here.spans()) == 2 + len(STAGES)
    assert root.parent is None
    assert root.context is not None
    for span in (*steps, deliver):
        assert span.parent is not None
        assert (span.parent.span_id, span.parent.trace_id) == (root.context.span_id, root.context.trace_id)
    ends = [times(span) for span in steps]
    assert (ends[0][0], ends[-1][1]) == times(root)
    for (began, end), (next_began, _) in pairwise(ends):
        assert began <= end == next_began  # without a hole
    assert ends[2][1] <= times(deliver)[0] <= ends[3][1] < times(deliver)[1]
    session = of(root).pop("chatd.connection")
    assert of(root) == {
        "messaging.message.id": frame.id,
        "messaging.message.body.size": len(SECRET),
        "chatd.seq": 1,
        "chatd.connection": session,
    }
    assert of(deliver) == {"chatd.delivered": True}
    told = json.dumps([json.loads(span.to_json()) for span in here.spans()])
    assert not any(word in told for word in (SECRET, *USERS))


async def test_who_is_away_is_given_nothing(here: Traced) -> None:
    alice = await here.enter("alice")
    await alice.ask(say(), protocol.Sent)
    await alice.ask(say(to="alice"), protocol.Sent)
    assert len(here.spans("message")) == 2
    assert here.server.server.tracer is not None
    await here.server.server.tracer.close()
    assert here.spans("deliver") == []


async def test_a_repetition_and_a_refusal(here: Traced) -> None:
    alice = await here.enter("alice")
    first = say()
    await alice.ask(first, protocol.Sent)
    assert (await alice.ask(first, protocol.Sent)).duplicate
    await alice.ask(say("something else", id=first.id), protocol.Error)
    here.server.store.fail_next("gone", 1)
    await alice.ask(say(), protocol.Error)
    _, repeated, reused, failed = here.spans("message")
    assert of(repeated)["chatd.outcome"] == "duplicate"
    assert repeated.status.status_code is StatusCode.UNSET
    assert of(reused)["chatd.outcome"] == "id_reuse"
    assert of(failed)["chatd.outcome"] == "unavailable"
    assert reused.status.status_code is failed.status.status_code is StatusCode.ERROR
    assert [len(here.spans(name)) for name in STAGES] == [4, 4, 4, 1]


async def test_what_a_blocked_user_writes_is_not_given(here: Traced) -> None:
    alice, _ = await here.enter("alice"), await here.enter("bob")
    await here.server.server.accounts.block("bob", "alice")
    await alice.ask(say(), protocol.Sent)
    assert here.server.server.tracer is not None
    await here.server.server.tracer.close()
    assert here.spans("deliver") == []


async def test_the_trace_goes_on_in_another_process() -> None:
    hub, store = Hub(), cast(Store, MemoryStore())
    async with (
        traced(share=store, bus=hub.end(), board=LoopBoard(hub)) as one,
        traced(share=store, bus=hub.end(), board=LoopBoard(hub)) as other,
    ):
        alice, bob = await one.enter("alice"), await other.enter("bob")
        await alice.ask(say(), protocol.Sent)
        await bob.until(protocol.Messages)
        await bob.ask(protocol.Ack(conv=CONV, seq=1, ref=1), protocol.Ok)
        root, deliver = one.one("message"), other.one("deliver")
        assert root.context is not None
        assert deliver.parent is not None
        assert (deliver.parent.span_id, deliver.parent.trace_id) == (root.context.span_id, root.context.trace_id)
        assert deliver.parent.is_remote
        assert deliver.kind is SpanKind.CONSUMER
        assert of(deliver) == {"chatd.delivered": True}
        assert (one.spans("deliver"), other.spans("message")) == ([], [])


# --- which ones -------------------------------------------------------------------------------------------


async def test_chance_chooses() -> None:
    async with traced(settings={"tracing.ratio": 0.0}) as never:
        alice = await never.enter("alice")
        await alice.ask(say(), protocol.Sent)
        assert await post(never.server.url, await never.server.token("alice"), TRACED) == 201
        assert never.spans() == []
    dice = iter([0.3, 0.2, 0.25, 0.0])
    tracer, _, _ = _tracer(TracingSettings(ratio=0.25), lambda: next(dice))
    assert [tracer.begin(_draft(), 0.0) is not None for _ in range(4)] == [False, True, False, True]


async def test_a_caller_is_followed_where_that_is_set() -> None:
    async with traced() as alone:
        assert await post(alone.server.url, await alone.server.token("alice"), TRACED) == 201
        root = alone.one("message")
        assert root.parent is None
        assert root.context is not None
        assert f"{root.context.trace_id:032x}" != CALLER
    async with traced(settings={"tracing.follow": True, "tracing.ratio": 0.0}) as following:
        token = await following.server.token("alice")
        for traceparent in (TRACED, UNTRACED, "", "00-nonsense", TRACED.upper() * 100):
            assert await post(following.server.url, token, traceparent) == 201
        root = following.one("message")
        assert root.parent is not None
        assert root.context is not None
        assert f"{root.context.trace_id:032x}" == CALLER


async def test_off_there_is_no_tracer() -> None:
    async with ChatServer() as server:
        assert server.server.tracer is None


def test_off_there_is_no_library() -> None:
    code = "import sys, chatd.app, chatd.cli; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


# --- bounds -----------------------------------------------------------------------------------------------


def _draft(number: int = 1) -> Draft:
    return Draft(CONV, "alice", f"01890a5d-ac96-774b-bcce-{number:012x}", SECRET, 1_000)


def _tracer(
    settings: TracingSettings, random: Callable[[], float] = lambda: 0.0
) -> tuple[OtelTracer, InMemorySpanExporter, list[float]]:
    """One on its own, what it made, and its clock: the first of the list."""
    provider, exporter = collecting()
    clock = [100.0]
    tracer = OtelTracer(
        settings,
        provider,
        connected=lambda user: True,
        now_s=lambda: clock[0],
        now_ms=lambda: 1_700_000_000_000,
        random=random,
    )
    return tracer, exporter, clock


def _tell(tracer: OtelTracer, seq: int) -> None:
    trace = tracer.begin(_draft(seq), tracer.now_s())
    assert trace is not None
    message = Message(CONV, seq, _draft(seq).id, "alice", SECRET, 1_000)
    trace.queued()
    trace.taken()
    trace.committed(message)
    tracer.message(Appended(message), None)
    trace.told()


def _delivered(exporter: InMemorySpanExporter) -> list[bool]:
    return [of(span)["chatd.delivered"] for span in exporter.get_finished_spans() if span.name == "deliver"]


def test_spans_tell_the_time() -> None:
    tracer, exporter, clock = _tracer(TracingSettings())
    trace = tracer.begin(_draft(), 99.75)
    assert trace is not None
    for step in (trace.queued, trace.taken, lambda: trace.committed(Message(CONV, 7, "", "alice", "", 0)), trace.told):
        clock[0] += 0.5
        step()
    found = {span.name: [(t - 1_700_000_000_000_000_000) / 1e9 for t in times(span)] for span in _ended(exporter)}
    assert found == {
        "accept": [-0.25, 0.5],
        "queue": [0.5, 1.0],
        "commit": [1.0, 1.5],
        "fan_out": [1.5, 2.0],
        "message": [-0.25, 2.0],
    }


def _ended(exporter: InMemorySpanExporter) -> Sequence[ReadableSpan]:
    return exporter.get_finished_spans()


async def test_who_never_acknowledges_is_not_waited_for() -> None:
    tracer, exporter, clock = _tracer(TracingSettings(ratio=1.0))
    for seq in range(1, DELIVER_SPANS_MAX + 3):
        _tell(tracer, seq)
    assert _delivered(exporter) == [False, False]
    tracer.receipt(Grown(CONV, "bob", 4, 0, grew=True), [Advance(CONV, "bob", "phone", 4)])
    assert _delivered(exporter) == [False, False, True, True]
    clock[0] += DELIVER_S_MAX
    _tell(tracer, DELIVER_SPANS_MAX + 3)
    assert len(_delivered(exporter)) == DELIVER_SPANS_MAX + 2
    await tracer.close()
    assert _delivered(exporter).count(True) == 2
    assert len(_delivered(exporter)) == DELIVER_SPANS_MAX + 3


# --- collectors -------------------------------------------------------------------------------------------


@asynccontextmanager
async def collector(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/traces", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_collector_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=open")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    came: list[tuple[str, ExportTraceServiceRequest]] = []

    async def take(request: web.Request) -> web.Response:
        came.append((request.headers["x-key"], ExportTraceServiceRequest.FromString(await request.read())))
        return web.Response()

    async with collector(take) as endpoint:
        async with ChatServer(users=USERS, settings=ALL | {"tracing.endpoint": f"{endpoint}/"}) as server:
            assert await post(server.url, await server.token("alice")) == 201
        ((key, request),) = came  # at the latest when it ends
    (resource,) = request.resource_spans
    named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert (key, named["service.name"], named["deployment.environment.name"]) == ("open", "chatd", "test")
    assert sorted(span.name for span in resource.scope_spans[0].spans) == sorted(["message", *STAGES])


async def test_a_collector_that_hangs_keeps_no_server_from_its_end() -> None:
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with collector(hang) as endpoint:
        with capture_logs() as log:
            async with (
                asyncio.timeout(PATIENCE_S),
                ChatServer(users=USERS, settings=ALL | {"tracing.endpoint": endpoint}) as server,
            ):
                assert await post(server.url, await server.token("alice")) == 201
        assert [(line["event"], line["endpoint"]) for line in log] == [("traces_lost", endpoint)]
        released.set()
