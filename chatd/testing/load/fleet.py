"""Many devices against one server, and the judgement over all they saw."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from chatd.accounts import Accounts
from chatd.model import Account
from chatd.passwords import Passwords
from chatd.settings import AccountSettings, StoreSettings
from chatd.store.base import Store
from chatd.store.sqlite import SqliteStore
from chatd.testing.history import Recorder, Report, check
from chatd.testing.load.device import Device, connect
from chatd.testing.load.process import BenchError, ServerProcess

CONNECTS_MAX = 64
ANSWER_S_MAX = 60.0
DEVICE = "load"
S = TypeVar("S", bound=Store)


async def prepare(
    directory: Path, users: Iterable[str], fill: Callable[[SqliteStore], Awaitable[None]] | None = None
) -> dict[str, str]:
    """Make a store in ``directory/data`` with these users. Returns: a token of each user's device.

    ``fill``: puts more into the store, after the users and before any device is known.
    """
    return await prepare_in(SqliteStore(directory / "data", StoreSettings(synchronous="normal")), users, fill)


async def prepare_in(
    store: S, users: Iterable[str], fill: Callable[[S], Awaitable[None]] | None = None
) -> dict[str, str]:
    """The same in any store, which is opened and closed."""
    passwords = Passwords()
    await store.open()
    try:
        accounts = Accounts(store, AccountSettings(), now_ms=lambda: 0, loopback=True, passwords=passwords)
        tokens = {}
        for user in users:
            await store.add_account(Account(user, None, False, False, 0))
            tokens[user] = await accounts.issue_token(user, DEVICE, days=0)
        if fill is not None:
            await fill(store)
    finally:
        passwords.close()
        await store.close()
    return tokens


class Fleet:
    """Devices by user, connected and caught up inside ``async with``. One of them lost ends the measurement."""

    def __init__(self, server: ServerProcess, tokens: Mapping[str, str], recorder: Recorder) -> None:
        self.devices: dict[str, Device] = {}
        self._server = server
        self._tokens = tokens
        self._recorder = recorder
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Fleet:
        try:
            await self.connect(self._tokens, self._tokens)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close()

    async def connect(self, tokens: Mapping[str, str], users: Iterable[str]) -> None:
        """Connect these users' devices and wait until all of them are caught up."""
        allow_files()
        waiting = list(users)

        async def work() -> None:
            while waiting:
                user = waiting.pop()
                device = await connect(self._server.port, user, tokens[user], self._recorder)
                self.devices[user] = device
                device.lost.add_done_callback(self._lost)
                await self.until(device.caught_up)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTS_MAX):
                    group.create_task(work())
        except* BenchError as failures:
            failed = failures.exceptions[0]
        else:
            return
        raise failed

    async def until(self, wanted: asyncio.Future[None], timeout_s: float = ANSWER_S_MAX) -> None:
        """Wait for something. Raises: BenchError – a device was lost, or it took too long."""
        either: set[asyncio.Future[Any]] = {wanted, self._failed}
        done, _ = await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            raise BenchError(f"{self._failed.result()}\n{self._server.log_tail()}")
        if not done:
            raise BenchError(f"the server was silent for {timeout_s:.0f} s\n{self._server.log_tail()}")

    async def pause(self, seconds: float) -> None:
        """Let the load run. Raises: BenchError – a device was lost."""
        done, _ = await asyncio.wait([self._failed], timeout=seconds)
        if done:
            raise BenchError(f"{self._failed.result()}\n{self._server.log_tail()}")

    async def read_logs(self, readers: Mapping[str, Device]) -> None:
        """At the end, when nothing is under way: record every conversation's log, each through its reader."""
        for device in self.devices.values():
            device.record.settled()
        for conv, device in readers.items():
            after, more = 0, True
            while more:
                async with asyncio.timeout(ANSWER_S_MAX):
                    page = await device.history(conv, after)
                self._recorder.final(conv, device.incarnation, page.messages)
                after, more = page.messages[-1].seq if page.messages else after, page.more

    def _lost(self, lost: asyncio.Future[str]) -> None:
        if not self._failed.done():
            self._failed.set_result(lost.result())

    def _close(self) -> None:
        for device in self.devices.values():
            device.lost.remove_done_callback(self._lost)
            device.close()


async def judge(directory: Path, recorder: Recorder, unrecorded: int = 0) -> Report:
    """Compare what was recorded with itself and with the store's count; after the server has ended.

    ``unrecorded``: messages that the store was filled with before, outside the recorded conversations.
    """
    return await judge_in(SqliteStore(directory / "data", StoreSettings()), recorder, unrecorded)


async def judge_in(store: Store, recorder: Recorder, unrecorded: int = 0) -> Report:
    """The same for any store, which is opened and closed."""
    await store.open()
    try:
        counts = await store.counts()
    finally:
        await store.close()
    recorder.counted("store", counts.messages - unrecorded)
    return check(recorder.events)


def allow_files() -> None:
    """Let this process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
