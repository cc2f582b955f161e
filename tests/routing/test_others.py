"""What a process notes of its users and sees of the others', over a day: in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import cast

from chatd.model import PresenceState
from chatd.presence.service import Presence
from chatd.presence.state import Shown
from chatd.routing.bus import NOTE_S
from chatd.routing.others import LOOK_SWEEPS, SWEEP_S, OtherProcesses
from chatd.testing.bus import Hub
from chatd.testing.virtual_time import VirtualLoop

USERS = [f"user{n}" for n in range(500)]


class Board:
    """Remembers when each user was noted, and when it was looked at."""

    def __init__(self) -> None:
        self.noted_s: dict[str, list[float]] = defaultdict(list)
        self.gone: list[str] = []
        self.looked_s: list[float] = []
        self.living = {"me", "other"}

    async def open(self, process: str, lease_s: float) -> None:
        return

    async def close(self) -> None:
        return

    async def alive(self) -> set[str]:
        return set(self.living)

    async def note(self, states: Mapping[str, PresenceState]) -> None:
        for user, state in states.items():
            if state == "offline":
                self.gone.append(user)
            else:
                self.noted_s[user].append(asyncio.get_running_loop().time())

    async def look(self, users: Sequence[str]) -> dict[str, dict[str, PresenceState]]:
        self.looked_s.append(asyncio.get_running_loop().time())
        return {}


class Service:
    """As much of the presence service as is asked."""

    def __init__(self) -> None:
        self.roster = self
        self.online = dict.fromkeys(USERS)

    def shown_here(self, user: str) -> Shown | None:
        return Shown("online", None) if user in self.online else None

    def shown(self, user: str) -> Shown:
        return self.shown_here(user) or Shown("offline", None)

    def watched(self) -> set[str]:
        return {"bob"}

    def alive(self, processes: set[str]) -> None:
        return

    def all_elsewhere(self, user: str, processes: Mapping[str, PresenceState]) -> None:
        return

    def forget_elsewhere(self, user: str) -> None:
        return


def over(then: Callable[[OtherProcesses, Board, Service], Coroutine[None, None, None]]) -> None:
    """Run it beside a process whose users are all online and noted, and who watch bob."""

    async def run() -> None:
        board, service = Board(), Service()
        others = OtherProcesses(Hub().end(), board, cast(Presence, service), process="me", lease_s=10.0)
        await others.open()
        for user in USERS:
            others.changed_here(user)
        await others.look(["bob"])
        await asyncio.sleep(1.0)
        assert all(len(board.noted_s[user]) == 1 for user in USERS)
        board.looked_s.clear()
        await then(others, board, service)
        await others.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def test_who_stays_for_days_is_noted_again_before_the_board_forgets() -> None:
    async def then(others: OtherProcesses, board: Board, service: Service) -> None:
        await asyncio.sleep(3 * NOTE_S)
        at_once: dict[float, int] = defaultdict(int)
        for times_s in board.noted_s.values():
            assert max(b - a for a, b in itertools.pairwise(times_s)) < NOTE_S / 2
            assert times_s[-1] > 2.5 * NOTE_S
            for time_s in times_s[1:]:
                at_once[time_s] += 1
        assert max(at_once.values()) < len(USERS) / 20  # not all at once
        assert board.gone == []

    over(then)


def test_after_a_gap_all_are_noted_again_and_who_left_meanwhile_is_taken_away() -> None:
    async def then(others: OtherProcesses, board: Board, service: Service) -> None:
        del service.online[USERS[0]]
        others.changed_here(USERS[0])
        others.renew()
        await asyncio.sleep(1.0)
        assert board.gone == [USERS[0]]
        assert [len(board.noted_s[user]) for user in USERS] == [1] + [2] * (len(USERS) - 1)
        await asyncio.sleep(1.0)  # and once is enough
        assert len(board.noted_s[USERS[1]]) == 2

    over(then)


def test_who_is_watched_is_looked_at_now_and_then_and_at_the_next_sweep_when_a_process_is_gone() -> None:
    async def then(others: OtherProcesses, board: Board, service: Service) -> None:
        gone: list[None] = []
        others.on_gone = lambda: gone.append(None)
        await asyncio.sleep(2 * LOOK_SWEEPS * SWEEP_S)
        assert len(board.looked_s) == 2
        board.living.discard("other")
        await asyncio.sleep(SWEEP_S + 10.0)
        assert len(board.looked_s) == 3
        assert len(gone) == 1
        others.doubt()
        await asyncio.sleep(2 * SWEEP_S)
        assert len(board.looked_s) == 4

    over(then)
