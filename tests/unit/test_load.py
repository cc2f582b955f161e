"""The bench at its smallest: every figure is there, the checker is on, and what goes wrong is told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from chatd import protocol
from chatd.model import Draft
from chatd.testing.history import Recorder
from chatd.testing.load import main, measures, storage
from chatd.testing.load.device import Device
from chatd.testing.load.fleet import Fleet
from chatd.testing.load.measures import Bench, percentile_ms
from chatd.testing.load.process import SERVE, BenchError, ServerProcess
from chatd.testing.load.storage import Segment, flat_ratio
from chatd.testing.load.talk import Talk, body_of

SMALL = ("--pairs", "2", "--seconds", "0.3", "--runs", "1", "--rate", "100", "--catch-up", "400")
SMALLER = ("--idle", "3", "--hold", "0", "--store-messages", "2560")


def test_the_standard_set_tells_every_figure_and_finds_no_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "results" / "today.json"
    assert main([*SMALL, *SMALLER, "--dir", str(tmp_path), "--json", str(saved)]) == 0
    results: dict[str, Any] = msgspec.json.decode(saved.read_bytes())
    assert results["faults"] == 0
    for key in ("delivered_per_s", "cpu_us_per_delivered", "catch_up_per_s", "start_ms"):
        assert results[key] > 0, key
    for key in ("p50_ms", "p99_ms"):
        assert results[key].keys() == {"100_per_s", "half_saturation"}
        assert all(figures["receipt"] > figures["delivered"] > 0 for figures in results[key].values())
    assert results["disk_bytes_per_message"].keys() == {"saturation", "batch_256"}
    assert results["flat_ratio"].keys() == {"store", "server"}
    assert isinstance(results["idle_rss_kib"], float)
    printed = {line.split()[0] for line in capfd.readouterr().out.splitlines()}
    assert printed | {"machine", "ids", "details"} == results.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


async def test_a_clean_run_is_judged_by_the_checker_over_all_its_messages(tmp_path: Path) -> None:
    found = await measures.saturation(Bench(tmp_path, SERVE), pairs=2, seconds=0.2, windows=2, filled=300)
    assert found.report.clean
    assert found.report.counts["ok"] == found.report.counts["final"] > 100
    assert found.report.counts["seen"] == 2 * found.report.counts["ok"]
    assert len(found.windows) == 2


async def test_a_message_that_no_client_sent_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = measures.fill_store

    async def fill_and_forge(*args: Any) -> None:
        await fill(*args)
        forged = Draft("reader:writer000", "writer000", protocol.new_message_id(), "nobody wrote this", 10**9)
        await args[0].commit([forged], ())

    monkeypatch.setattr(measures, "fill_store", fill_and_forge)
    found = await measures.catch_up(Bench(tmp_path, SERVE), messages=100, conversations=2)
    assert {anomaly.kind for anomaly in found.report.anomalies} == {"phantom"}


async def test_a_server_that_does_not_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no disk today')")
    with pytest.raises(BenchError, match="no disk today"):
        async with ServerProcess(tmp_path, command):
            raise AssertionError("it started")


def test_a_bench_that_fails_exits_with_1_and_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "results.json"
    assert main(["--dir", str(tmp_path), "--json", str(saved), "--server", f"{sys.executable} -c 0"]) == 1
    assert "did not start" in capsys.readouterr().err
    assert not saved.exists()


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(data)


def _frame(frame: protocol.ServerFrame, head: Callable[[int], bytes] = lambda size: bytes((0x81, size))) -> bytes:
    payload = protocol.encode(frame)
    return head(len(payload)) + payload


@pytest.fixture
async def device() -> Device:
    """A device that is connected and has said hello."""
    one = Device("alice", "secret", Recorder("test"))
    one.connection_made(_Transport())
    one.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    return one


async def test_a_device_takes_frames_in_any_pieces_and_answers_with_one_write(device: Device) -> None:
    transport = _Transport()
    device._transport = transport
    device.record.opened("1", "i", watermarks={})
    entries = (protocol.Entry(seq=7, ts=1, id="x", sender="bob", body="b" * 200),)
    long = _frame(
        protocol.Messages(conv="alice:bob", messages=entries), lambda size: b"\x81\x7e" + size.to_bytes(2, "big")
    )
    data = b"\x89\x00" + long
    device.data_received(data[:50])
    assert transport.written == [b"\x8a\x80\0\0\0\0"]
    device.data_received(data[50:])
    ack = protocol.encode(protocol.Ack(conv="alice:bob", seq=7))
    assert transport.written[1:] == [bytes((0x81, 0x80 | len(ack))) + b"\0\0\0\0" + ack]


async def test_a_refusal_and_a_close_end_the_measurement_with_their_reason(device: Device) -> None:
    refused = protocol.Error(code="overloaded", message="later", temporary=True)
    device.data_received(_frame(refused))
    assert device.lost.result() == "refused: overloaded: later"
    other = Device("alice", "secret", Recorder("test"))
    other.connection_made(_Transport())
    other.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x88\x04\x03\xf4ok")
    assert other.lost.result() == "closed with 1012: ok"
    third = Device("alice", "secret", Recorder("test"))
    third.connection_made(_Transport())
    third.data_received(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")
    assert third.lost.result().startswith("no upgrade: ")


@pytest.mark.parametrize("in_a_listing", [False, True])
async def test_a_message_is_delivered_when_a_receipt_or_a_listing_says_so(device: Device, in_a_listing: bool) -> None:
    fleet = Fleet(cast(ServerProcess, None), {}, Recorder("test"))
    fleet.devices["alice"] = fleet.devices["bob"] = device
    device.record.opened("1", "i", watermarks={})
    talk = Talk(fleet, [("alice", "bob")], "v7")
    device.on_frame = (alice := talk.talkers[0])._frame
    alice.send()
    (id_,) = talk.started
    device.data_received(_frame(protocol.Sent(id=id_, conv="alice:bob", seq=1, ts=1)))
    row = protocol.ConversationRow(
        conv="alice:bob", peer="bob", head=1, delivered=1, read=1, peer_delivered=1, peer_read=0, unread=0, updated=1
    )
    receipt = protocol.Receipt(conv="alice:bob", user="bob", delivered=1, read=0)
    frame = protocol.ConversationList(conversations=(row,)) if in_a_listing else receipt
    payload = protocol.encode(frame)
    device.data_received(b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload)
    assert (talk.delivered, talk.started) == (1, {})


def test_a_percentile_is_a_value_that_was_measured() -> None:
    seconds = [n / 1000 for n in range(100, 0, -1)]
    assert percentile_ms(seconds, 0.50) == 50
    assert percentile_ms(seconds, 0.99) == 99
    assert percentile_ms([0.004], 0.99) == 4


def test_flatness_compares_the_end_with_the_beginning_after_the_warm_up() -> None:
    costs = [90.0, 10.0, 10.0, 11.0, 50.0, 12.0, 12.0, 13.0]
    assert flat_ratio([Segment(n, cost, 0.0) for n, cost in enumerate(costs)]) == 1.2


async def test_the_store_is_measured_in_equal_parts(tmp_path: Path) -> None:
    found = await storage.segments(tmp_path / "data", messages=1024, parts=2, ids="v4")
    assert [segment.messages for segment in found] == [512, 1024]
    assert all(segment.cpu_us > 0 and segment.disk_bytes > 0 for segment in found)


def test_bodies_are_of_50_bytes_and_differ() -> None:
    assert len(body_of(1)) == len(body_of(2_000_000).encode()) == 50
    assert body_of(1) != body_of(2)
