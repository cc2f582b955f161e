"""A real server process and a bare WebSocket client for it: what the fault tests share."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from chatd import protocol

PASSWORD = "a long password"
RATES = {
    "CHATD_LIMITS_SENDS_PER_S": "1000000",
    "CHATD_LIMITS_SENDS_BURST": "1000000",
    "CHATD_LIMITS_FRAMES_PER_S": "1000000",
    "CHATD_LIMITS_FRAMES_BURST": "1000000",
    "CHATD_LIMITS_BYTES_PER_S": "1e9",
    "CHATD_LIMITS_BYTES_BURST": "1000000000",
}


class Process:
    """One server process; its URL once it has printed it, and what it ``said`` until then."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.said = ""

    async def listening(self) -> None:
        """Wait until it prints its URL (again, after a restart)."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.said += line
            if match := re.search(r"serves on (http://\S+)", line):
                self.url = match[1]
                return
        raise AssertionError(f"the server ended with {await self.process.wait()} before it served")


@asynccontextmanager
async def serving(directory: Path, command: Sequence[str] = (sys.executable, "-m", "chatd")) -> AsyncIterator[Process]:
    """Run ``serve`` on this data directory meanwhile."""
    args = [*command, "serve", "--data-dir", str(directory), "--port", "0"]
    async with started(args) as server:
        yield server


@asynccontextmanager
async def started(args: Sequence[str]) -> AsyncIterator[Process]:
    """Run a command that serves; whatever is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **RATES},
        start_new_session=True,
    )
    server = Process(process)
    errors = asyncio.create_task(_drain(process.stderr))
    try:
        await server.listening()
        yield server
    finally:
        with suppress(ProcessLookupError):  # it and what it started: a session of our own
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await errors


async def _drain(stream: asyncio.StreamReader | None) -> None:
    """Pass its log on: pytest shows it when a test fails."""
    while stream is not None and (text := await stream.read(65_536)):
        sys.stderr.write(text.decode(errors="replace"))


async def register(http: ClientSession, url: str, *users: str) -> dict[str, str]:
    """Accounts and a token each."""
    tokens = {}
    for user in users:
        body = {"user": user, "password": PASSWORD}
        async with http.post(f"{url}/v1/register", json=body) as answer:
            assert answer.status == 201, await answer.text()
        async with http.post(f"{url}/v1/login", json=body) as answer:
            tokens[user] = (await answer.json())["token"]
    return tokens


class Raw:
    """One bare connection: frames out, frames in. ``welcome``: how it was greeted."""

    welcome: protocol.Welcome

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket

    @classmethod
    async def connect(cls, http: ClientSession, url: str, token: str, **hello: Any) -> Raw:
        """Connect and say hello; caught up when this returns."""
        raw = cls(await http.ws_connect(f"{url}/v1/ws", protocols=("chatd.v1",), compress=0, max_msg_size=0))
        await raw.write({"type": "hello", "token": token, **hello})
        while not isinstance(frame := await raw.read(), protocol.CaughtUp):
            if isinstance(frame, protocol.Welcome):
                raw.welcome = frame
        return raw

    async def write(self, frame: dict[str, Any]) -> None:
        """Send one frame."""
        await self.socket.send_str(msgspec.json.encode(frame).decode())

    async def read(self) -> protocol.ServerFrame:
        """The next frame. Raises: ConnectionError – the connection ended."""
        message = await self.socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise ConnectionError(f"{message.type} {message.data}")
        frame = protocol.decode_server(message.data.encode())
        assert frame is not None
        return frame

    async def answer(self, message_id: str) -> protocol.Sent | protocol.Error:
        """The answer to the send of this id; other frames are let go."""
        while True:
            frame = await self.read()
            if isinstance(frame, protocol.Sent | protocol.Error) and frame.id == message_id:
                return frame

    async def send(self, to: str, body: str, message_id: str | None = None) -> protocol.Sent | protocol.Error:
        """Send one message and wait for its answer."""
        name = message_id or protocol.new_message_id()
        await self.write({"type": "send", "id": name, "to": to, "body": body})
        return await self.answer(name)

    async def log(self, conv: str) -> list[protocol.Entry]:
        """The whole log, read through history."""
        entries: list[protocol.Entry] = []
        while True:
            after = entries[-1].seq if entries else 0
            await self.write({"type": "history", "conv": conv, "after": after, "limit": 200, "ref": "log"})
            while not (isinstance(frame := await self.read(), protocol.Messages) and frame.ref == "log"):
                pass
            entries.extend(frame.messages)
            if not frame.more:
                return entries
