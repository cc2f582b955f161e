"""Presence across processes: each tells of its own users, and looks for those whom somebody here watches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from zlib import crc32

import structlog

from chatd.errors import Refusal
from chatd.presence.service import Presence
from chatd.presence.state import Shown
from chatd.routing.bus import NOTE_S, Board, Bus, Letter, PresenceHint, encode, watch_channel

GATHER_S = 0.1
USERS_MAX = 10_000  # of one note: the contract
WAITING_USERS_MAX = 200_000
SWEEP_S = 30.0
LOOK_SWEEPS, RENEW_SWEEPS = 10, round(NOTE_S / 3 / SWEEP_S)
"""Every so many sweeps everybody who is watched is looked at, and each note is repeated (a few in each sweep)."""

log = structlog.get_logger("chatd.others")


class OtherProcesses:
    """The `Others` of a presence service. ``lease_s``: after a death without a word its users are offline by then."""

    def __init__(self, bus: Bus, board: Board, presence: Presence, *, process: str, lease_s: float) -> None:
        self._bus = bus
        self._board = board
        self._presence = presence
        self._process = process
        self._lease_s = lease_s
        self._alive: set[str] = {process}
        self._changed: dict[str, None] = {}
        self._noted: dict[str, Shown] = {}  # what the board says of users of this process
        self._renewing: set[str] = set()
        self._doubt = False
        self._looked: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self.on_gone: Callable[[], None] = lambda: None  # a process died or left: its last hints may be lost

    async def open(self) -> None:
        """Take the lease. Raises: StartError."""
        await self._board.open(self._process, self._lease_s)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(work, name="chatd-others") for work in (self._tell(), self._live(), self._sweep())
        ]

    async def close(self) -> None:
        """Give it back."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:  # a driver may swallow a cancellation: the loops see `_closing` in their next turn
            await asyncio.wait(self._tasks, timeout=self._lease_s)
        await self._board.close()

    @property
    def chosen(self) -> bool:
        """Whether this one of the living processes does what one is enough for. Now and then two may believe it."""
        return self._process == min(self._alive | {self._process})

    @property
    def processes(self) -> int:
        """How many live, this one among them, by the leases that it saw last."""
        return len(self._alive | {self._process})

    # --- of this process --------------------------------------------------------------------------------

    def changed_here(self, user: str) -> None:
        """See `Others`."""
        if len(self._changed) < WAITING_USERS_MAX:
            self._changed[user] = None
            self._wake.set()

    def renew(self, users: Iterable[str] | None = None) -> None:
        """Note and tell again how these users are, None: all: the board may have lost it, or be about to forget it."""
        for user in [*(self._noted if users is None else users)]:
            self._renewing.add(user)
            self.changed_here(user)

    async def _tell(self) -> None:
        """Note and tell what changed, gathered: who changed and changed back costs nothing."""
        while not self._closing:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            users = list(self._changed)[:USERS_MAX]
            roster = self._presence.roster
            news = {user: roster.shown_here(user) for user in users}
            news = {
                user: shown
                for user, shown in news.items()
                if shown != self._noted.get(user) or (shown is not None and user in self._renewing)
            }
            try:
                await self._board.note({user: shown.state if shown else "offline" for user, shown in news.items()})
            except Refusal as exc:
                log.warning("presence_not_noted", error=exc.message, users=len(news))
                self._wake.set()
                await asyncio.sleep(1.0)
                continue
            self._renewing.difference_update(users)
            for user in users:
                self._changed.pop(user, None)
            for user, shown in news.items():
                if roster.shown_here(user) != shown:  # it changed while it was noted
                    self.changed_here(user)
                if shown is None:
                    self._noted.pop(user, None)
                    hint = PresenceHint("offline", roster.shown(user).last_seen_ms)
                else:
                    self._noted[user] = shown
                    hint = PresenceHint(shown.state)
                self._bus.publish(watch_channel(user), encode(Letter(self._process, hint)))
            if self._changed:
                self._wake.set()

    # --- of the others ----------------------------------------------------------------------------------

    async def look(self, users: Sequence[str]) -> None:
        """See `Others`."""
        new = [user for user in users if user not in self._looked]
        if not new:
            return
        for user in new:
            await self._bus.listen(watch_channel(user))
        await self._look(new)
        self._looked.update(new)

    async def _look(self, users: Sequence[str]) -> None:
        for user, processes in (await self._board.look(users)).items():
            for process, state in processes.items():
                if process != self._process:
                    self._presence.elsewhere(user, process, state, None)

    async def _live(self) -> None:
        """Renew the lease, and see who is dead. Half of a lease is left for one that was missed."""
        while not self._closing:
            try:
                before, self._alive = self._alive, await self._board.alive()
                self._presence.alive(self._alive)
                if before - self._alive:
                    self.doubt()
                    self.on_gone()
            except Refusal as exc:
                log.warning("lease_not_renewed", error=exc.message)
            await asyncio.sleep(self._lease_s / 3)

    async def _sweep(self) -> None:
        """Forget whom nobody watches any more, repeat notes, and look at everybody now and then, or after a doubt."""
        for sweep in itertools.count(1):
            await asyncio.sleep(SWEEP_S)
            if self._closing:
                return
            watched = self._presence.watched()
            for user in self._looked - watched:
                self._looked.discard(user)
                self._bus.forget(watch_channel(user))
                self._presence.roster.forget_elsewhere(user)
            self.renew(user for user in self._noted if crc32(user.encode()) % RENEW_SWEEPS == sweep % RENEW_SWEEPS)
            if self._doubt or sweep % LOOK_SWEEPS == 0:
                self._doubt = False
                await self.again()

    def doubt(self) -> None:
        """Hints may have been lost: the next sweep looks at everybody."""
        self._doubt = True

    async def again(self) -> None:
        """Look at everybody who is watched: hints may have been lost."""
        users = list(self._looked)
        try:
            for at in range(0, len(users), 1_000):
                some = users[at : at + 1_000]
                noted = await self._board.look(some)
                for user in some:
                    processes = {p: s for p, s in noted.get(user, {}).items() if p != self._process}
                    self._presence.all_elsewhere(user, processes)
        except Refusal as exc:
            log.warning("presence_not_looked_at", error=exc.message)
