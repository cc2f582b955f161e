"""A client that stops reading: what it costs the server, what it costs the others, and whether it gets everything.

``python -m bench.slow_reader --messages 100000``. First as many messages again go to a client that reads (that warms
every cache up and gives the others' p99 to compare with), then to one that does not, which reads at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

from chatd import protocol
from chatd.testing.load.fleet import prepare
from chatd.testing.load.process import ServerProcess

IN_FLIGHT_MAX = 32
PROBE_PAUSE_S = 0.01
STREAM_BYTES_MAX = 16_384
USERS = ("alice", "bob", "carol", "dave", "erin")


class Client:
    """A WebSocket client that reads and acknowledges; `seen` is the last seq of each conversation."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[str, asyncio.Future[None]] = {}
        self.seen: dict[str, int] = {}
        self.arrived: dict[str, Callable[[], None]] = {}
        self.reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, http: ClientSession, port: int, token: str) -> Client:
        socket = await http.ws_connect(f"http://127.0.0.1:{port}{protocol.WS_PATH}", compress=0, max_msg_size=0)
        client = cls(socket)
        await client._write(protocol.Hello(token=token))
        return client

    async def send(self, to: str, body: str) -> None:
        """Send one message and wait until it is durable."""
        name = protocol.new_message_id()
        self._answers[name] = asyncio.get_running_loop().create_future()
        await self._write(protocol.Send(id=name, to=to, body=body))
        await self._answers[name]

    async def _write(self, frame: protocol.ClientFrame) -> None:
        await self._socket.send_str(protocol.encode(frame).decode())

    async def _read(self) -> None:
        async for message in self._socket:
            frame = protocol.decode_server(message.data.encode())
            if isinstance(frame, protocol.Sent):
                self._answers.pop(frame.id).set_result(None)
            elif isinstance(frame, protocol.Messages):
                for entry in frame.messages:
                    in_order(self.seen, frame.conv, entry.seq)
                    if (arrived := self.arrived.pop(entry.body or "", None)) is not None:
                        arrived()
                await self._write(protocol.Ack(conv=frame.conv, seq=frame.messages[-1].seq))
            elif isinstance(frame, protocol.Error):
                raise SystemExit(f"refused: {frame}")


def in_order(seen: dict[str, int], conv: str, seq: int) -> None:
    """Note a seq. Exits: it is not the next one."""
    if seq != seen.get(conv, 0) + 1:
        raise SystemExit(f"{conv}: {seq} came after {seen.get(conv, 0)}")
    seen[conv] = seq


class StuckReader:
    """A client that says hello and then takes nothing from its socket until `read_all`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, token: str) -> StuckReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=STREAM_BYTES_MAX)
        writer.write(
            f"GET {protocol.WS_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        stuck = cls(reader, writer)
        stuck.write(protocol.Hello(token=token))
        while not isinstance(await stuck.read(), protocol.CaughtUp):
            pass
        return stuck

    def write(self, frame: protocol.ClientFrame) -> None:
        """Send a frame, masked with zeros."""
        data = protocol.encode(frame)
        size = len(data).to_bytes(2, "big")
        head = bytes((0x81, 0x80 | len(data))) if len(data) < 126 else b"\x81\xfe" + size
        self._writer.write(head + bytes(4) + data)

    async def read(self) -> protocol.ServerFrame | None:
        """The next frame, or None: a ping, answered."""
        first, size = await self._reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self._reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._reader.readexactly(8), "big")
        data = await self._reader.readexactly(size)
        if first == 0x89:
            self._writer.write(bytes((0x8A, 0x80)) + bytes(4))
        return protocol.decode_server(data) if first == 0x81 else None

    async def read_all(self, conv: str, last: int) -> None:
        """Read and acknowledge up to ``last``. Exits: something is missing or out of order."""
        seen: dict[str, int] = {}
        while seen.get(conv, 0) < last:
            frame = await self.read()
            if isinstance(frame, protocol.Messages):
                for entry in frame.messages:
                    in_order(seen, frame.conv, entry.seq)
                self.write(protocol.Ack(conv=frame.conv, seq=frame.messages[-1].seq))
        self._writer.close()


async def flood(sender: Client, to: str, messages: int, rss_kib: Callable[[], int]) -> int:
    """Send so many messages, IN_FLIGHT_MAX at a time. Returns: the highest RSS seen meanwhile."""
    left = iter(range(messages))
    highest = rss_kib()

    async def worker() -> None:
        nonlocal highest
        for number in left:
            await sender.send(to, f"message number {number} of a long flood")
            if number % 1_000 == 0:
                highest = max(highest, rss_kib())

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT_MAX)))
    return max(highest, rss_kib())


async def watched(one: Client, other: Client, work: Awaitable[int]) -> tuple[int, float]:
    """Do the work while one user writes to another. Returns: its result, and their p99 of send→delivered in ms."""
    seconds: list[float] = []
    task = asyncio.ensure_future(work)
    while not task.done():
        began_s, body = time.perf_counter(), f"probe {len(seconds)} {time.perf_counter_ns()}"
        here = asyncio.get_running_loop().create_future()
        other.arrived[body] = lambda here=here: here.set_result(None)  # type: ignore[misc]
        await one.send("dave", body)
        await here
        seconds.append(time.perf_counter() - began_s)
        await asyncio.wait([task], timeout=PROBE_PAUSE_S)
    seconds.sort()
    return task.result(), seconds[int(len(seconds) * 0.99)] * 1000


async def run(messages: int, directory: Path) -> dict[str, Any]:
    """The whole of it. Returns: the figures."""
    tokens = await prepare(directory, USERS)
    async with ServerProcess(directory) as server, ClientSession() as http:
        alice, carol, dave, erin = [
            await Client.connect(http, server.port, tokens[user]) for user in ("alice", "carol", "dave", "erin")
        ]
        stuck = await StuckReader.connect(server.port, tokens["bob"])
        _, before_ms = await watched(carol, dave, flood(alice, "erin", messages, lambda: server.rss_kib))
        rss = server.rss_kib
        highest, with_ms = await watched(carol, dave, flood(alice, "bob", messages, lambda: server.rss_kib))
        await stuck.read_all("alice:bob", messages)
        for client in (alice, carol, dave, erin):
            client.reader.cancel()
    return {
        "messages": messages,
        "rss_growth_kib": highest - rss,
        "p99_ms_with_a_reader": round(before_ms, 2),
        "p99_ms_with_a_stuck_reader": round(with_ms, 2),
        "read_in_order_at_the_end": messages,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatd-slow-") as directory:
        json.dump(asyncio.run(run(options.messages, Path(directory))), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
