"""A whole server inside a test or a program: ``async with ChatServer(users=["alice", "bob"]) as server: ...``."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from chatd import configuration
from chatd.app import Server, make_store
from chatd.client import Client
from chatd.passwords import Passwords
from chatd.routing.bus import Board, Bus
from chatd.store.base import Store
from chatd.testing.faults import FaultyStore

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

CUT = 1012
GENEROUS: Mapping[str, Any] = {
    "accounts.registration": "open",
    "accounts.password_chars_min": 1,
    "limits.sends_per_s": 1e6,
    "limits.sends_burst": 1_000_000,
    "limits.frames_per_s": 1e6,
    "limits.frames_burst": 1_000_000,
    "limits.bytes_per_s": 1e9,
    "limits.bytes_burst": 1_000_000_000,
    "limits.connects_per_s": 1e6,
    "limits.connects_burst": 1_000_000,
    "limits.upgrades_per_s": 1e6,
    "limits.upgrades_burst": 1_000_000,
    "limits.logins_per_s": 1e6,
    "limits.logins_burst": 1_000_000,
}


class ChatServer:
    """A real server on a loopback port, in the running event loop. It installs nothing and configures nothing.

    ``store``: ``memory``; ``sqlite``, in a directory that goes with the server; a directory that stays; or the URL of a
    Redis, ``redis://host:port/0``, whose data stay, too.
    ``users``: accounts to make; their password is their name. ``settings``: values by key, as
    ``{"limits.window_messages_max": 8}``; rates are generous unless given. ``bus``, ``board`` and ``share``: what
    several servers have in common, as several processes do: their bus, their board and their store.
    ``tracer_provider``: OpenTelemetry's, which makes the spans.
    """

    def __init__(
        self,
        store: Literal["memory", "sqlite"] | str | Path = "memory",
        users: Iterable[str] = (),
        port: int = 0,
        settings: Mapping[str, Any] | None = None,
        bus: Bus | None = None,
        board: Board | None = None,
        share: Store | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._tracer_provider = tracer_provider
        self._bus, self._board, self._share = bus, board, share
        self._users = tuple(users)
        self._stack = AsyncExitStack()
        self._tokens: dict[str, str] = {}
        self._directory = store if isinstance(store, Path) else None
        if store == "sqlite":
            self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="chatd-")))
        redis_url = store if isinstance(store, str) and "://" in store else None
        overrides = {
            **GENEROUS,
            "server.port": port,
            "store.kind": "redis" if redis_url else "memory" if self._directory is None else "sqlite",
            "store.redis_url": redis_url,
            "server.data_dir": None if self._directory is None else str(self._directory),
            **(settings or {}),
        }
        self.settings = configuration.load(env={}, overrides=overrides)
        self.server: Server
        self.store: FaultyStore

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return self.server.url

    async def __aenter__(self) -> ChatServer:
        self.store = FaultyStore(self._share or make_store(self.settings))
        self.server = Server(
            self.settings,
            store=cast(Store, self.store),
            passwords=Passwords(time_cost=1, memory_kib=64, parallelism=1),
            bus=self._bus,
            board=self._board,
            tracer_provider=self._tracer_provider,
        )
        await self.server.start()
        for user in self._users:
            if await self.server.store.account(user) is None:
                await self.server.accounts.add_user(user, user)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await self.server.stop()
        finally:
            await self._stack.aclose()

    async def token(self, user: str, device: str = "test") -> str:
        """A token of this user's device of this name; the same one each time."""
        key = f"{user}/{device}"
        if key not in self._tokens:
            self._tokens[key] = await self.server.accounts.issue_token(user, device)
        return self._tokens[key]

    async def client(self, user: str, device: str = "test", store: Path | None = None) -> Client:
        """A connected client of this user's device; it is closed with the server."""
        client = Client(self.url, token=await self.token(user, device), user=user, store=store)
        await self._stack.enter_async_context(client)
        return client

    def cut(self, user: str) -> int:
        """Cut this user's connections as a failing network does. Returns how many there were."""
        return self.server.sockets.cut(user)


class ThreadedChatServer:
    """The same for synchronous code: the server runs in a thread with an event loop of its own.

    ``with ThreadedChatServer(users=["alice"]) as server: requests.get(server.url + "/healthz")``
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args, self._kwargs = args, kwargs
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._chat: ChatServer

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return self._chat.url

    def token(self, user: str, device: str = "test") -> str:
        """See `ChatServer.token`."""
        return asyncio.run_coroutine_threadsafe(self._chat.token(user, device), self._loop).result(30)

    def __enter__(self) -> ThreadedChatServer:
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),), name="chatd-testing")
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not None:
            self._thread.join()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        try:
            async with ChatServer(*self._args, **self._kwargs) as self._chat:
                self._ready.set()
                await self._end.wait()
        except BaseException as exc:
            self._error = exc
            if self._ready.is_set():
                raise
        finally:
            self._ready.set()
