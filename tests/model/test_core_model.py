"""The core (sequencer, delivery, connections, catch-up) under everything that can happen, against a reference model.

The examples are the same in every run (derandomize): a build must not fail for what was drawn, and who sees it fail
can repeat it. To look for what these examples miss, ``CHATD_MODEL_EXAMPLES=5000`` draws that many new ones.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest
import structlog
from device import Device
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from reference import ComparedStore, Reference, SlowStore

from chatd import configuration
from chatd.app import Server
from chatd.connection import Connection
from chatd.model import ID_AHEAD_MS_MAX, Account, born_ms, conv_of
from chatd.passwords import Passwords
from chatd.store.base import Store
from chatd.testing.faults import Fault, FaultyStore
from chatd.testing.server import GENEROUS
from chatd.testing.virtual_time import VirtualLoop

USERS = ("alice", "bob")
NAMES = ("one", "two")
CONVS = {"alice": (conv_of("alice", "bob"), conv_of("alice", "alice")), "bob": (conv_of("alice", "bob"),)}
SETTLE_ROUNDS_MAX = 200
PASSWORDS = Passwords()
SETTINGS = configuration.load(
    env={},
    overrides={**GENEROUS, "store.kind": "memory", "limits.window_messages_max": 4, "limits.initial_history": 1_000},
)

ALL = 1_000_000
BORN_MS = 0x018900000000
FAULTS: tuple[Fault, ...] = ("gone", "unknown_stored", "unknown_lost")

devices = st.integers(0, 3)
moments = st.sampled_from((0, 0, 1, 5, 30))


class World:
    """One store that lasts, servers over it one after the other, four devices, and a clock that is a number."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.compared = ComparedStore()
        self.faulty = FaultyStore(cast(Store, self.compared))
        self.store = SlowStore(self.faulty, random.Random(seed))
        self.connections: list[Connection] = []
        self.violations: list[str] = []  # frames that must never be
        self.tokens: dict[tuple[str, str], str] = {}
        self.devices = [Device(self, user, name) for user in USERS for name in NAMES]
        self.server = self._new_server()
        self.do(self._begin())

    @property
    def reference(self) -> Reference:
        return self.compared.reference

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end, and all that goes on beside it."""
        self.loop.run_until_complete(work)

    def _new_server(self) -> Server:
        return Server(
            SETTINGS,
            store=cast(Store, self.store),
            passwords=PASSWORDS,
            now_ms=lambda: int(self.loop.time() * 1000),
            now_s=self.loop.time,
            on_broken=self._broke,
        )

    def _broke(self, exc: BaseException) -> None:
        raise AssertionError("the server gave up") from exc

    async def _begin(self) -> None:
        await self.server.start(listen=False)
        for user in USERS:
            await self.compared.add_account(Account(user, None, False, False, 0))
            for name in NAMES:
                self.tokens[user, name] = await self.server.accounts.issue_token(user, name)

    async def crash(self) -> None:
        """What the process knew is gone; what the store has stays. A new one starts."""
        await self._die()
        self.server = self._new_server()
        await self.server.start(listen=False)

    async def _die(self) -> None:
        for device in self.devices:
            device.lose()
        for connection in self.connections:
            connection.lost()
        self.connections.clear()
        self.server.sockets.stop()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """End everything."""
        self.do(self._die())
        self.do(self.compared.close())
        self.loop.close()


class CoreModel(RuleBasedStateMachine):
    """Each rule is one thing that happens, and then some time passes, or none: they happen in one another's midst."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.sends = 0
        self.blocked = False
        for device in self.world.devices:
            self._then(0, device.connect)

    def _device(self, number: int) -> Device:
        return self.world.devices[number]

    def _then(self, ms: int, action: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Do something, and let so much time pass: 0 leaves all that it led to under way."""

        async def work() -> None:
            action(*args, **kwargs)
            if ms:
                await asyncio.sleep(ms / 1000)

        self.world.do(work())

    # --- what happens ---

    @rule(ms=st.sampled_from((1, 5, 20, 2_000)))
    def pass_time(self, ms: int) -> None:
        self.world.do(asyncio.sleep(ms / 1000))

    @rule(number=devices, which=st.integers(0, 3), count=st.integers(1, 4), ms=moments)
    def send(self, number: int, which: int, count: int, ms: int) -> None:
        device = self._device(number)
        conv = CONVS[device.user][-1 if which == 3 else 0]
        for n in range(count):
            self.sends += 1
            born = f"{BORN_MS + self.sends * 2 * ID_AHEAD_MS_MAX:012x}"
            id_ = f"{born[:8]}-{born[8:]}-7000-8000-{self.sends:012x}"
            self._then(ms if n == count - 1 else 0, device.send, conv, id_, f"message {self.sends}")

    @rule(number=devices, ms=moments)
    def retry(self, number: int, ms: int) -> None:
        self._then(ms, self._device(number).resend)

    @rule(number=devices, which=st.integers(0, 1_000), ms=moments)
    def use_an_id_again(self, number: int, which: int, ms: int) -> None:
        device = self._device(number)
        if device.acked_ids:
            self._then(ms, device.reuse, sorted(device.acked_ids)[which % len(device.acked_ids)])

    @rule(number=devices, count=st.integers(1, 5))
    def receive(self, number: int, count: int) -> None:
        self._device(number).take(count)

    @rule(read=st.booleans(), ms=moments)
    def all_receive_and_acknowledge(self, read: bool, ms: int) -> None:
        for device in self.world.devices:
            device.take(ALL)
            self._then(ms, device.ack, read=read)

    @rule(number=devices, read=st.booleans(), ms=moments)
    def acknowledge(self, number: int, read: bool, ms: int) -> None:
        self._then(ms, self._device(number).ack, read=read)

    @rule(number=devices, ms=moments)
    def lose_connection(self, number: int, ms: int) -> None:
        self._then(ms, self._device(number).lose)

    @rule(number=devices, ms=moments)
    def reconnect(self, number: int, ms: int) -> None:
        self._then(ms, self._device(number).connect)

    @rule(number=devices, on=st.booleans(), ms=moments)
    def congest(self, number: int, on: bool, ms: int) -> None:
        self._then(ms, self._device(number).congest, on)

    @rule(fault=st.sampled_from(FAULTS), number=devices, read=st.booleans(), ms=moments)
    def store_fails_a_mark(self, fault: Fault, number: int, read: bool, ms: int) -> None:
        self.world.faulty.fail_next(fault)
        device = self._device(number)
        device.take(ALL)
        self._then(ms, device.ack, read=read)

    @rule(fault=st.sampled_from(FAULTS), commits=st.integers(1, 2))
    def store_fails(self, fault: Fault, commits: int) -> None:
        self.world.faulty.fail_next(fault, commits)

    @rule(user=st.integers(0, 1), on=st.booleans())
    def block(self, user: int, on: bool) -> None:
        self.blocked = self.blocked or on
        self.world.do(self.world.compared.block(USERS[user], USERS[1 - user], on=on))

    @rule(user=st.integers(0, 1), which=st.integers(0, 1), back=st.integers(0, 8))
    def trim(self, user: int, which: int, back: int) -> None:
        """The older messages of a conversation go, but none that a device may have to send again."""
        conv = CONVS[USERS[user]][-which]
        waiting = [born_ms(i) for d in self.world.devices for i, (c, _) in d.outbox.items() if c == conv]
        newest = BORN_MS + (self.sends - back) * 2 * ID_AHEAD_MS_MAX
        older_than_ms = min([newest, *(ms - ID_AHEAD_MS_MAX for ms in waiting)])
        self.world.do(self.world.compared.trim_some(conv, older_than_ms))

    @rule()
    def calm(self) -> None:
        """Everything settles; what goes wrong after this is not hidden by what would have come anyway."""
        self._settle()

    @rule()
    def crash(self) -> None:
        self.world.do(self.world.crash())

    # --- what must always hold; what a device may rely on is judged as each frame arrives ---

    @invariant()
    def every_frame_is_true_when_it_is_written(self) -> None:
        assert self.world.violations == []

    @invariant()
    def answers_are_in_the_log_where_they_said(self) -> None:
        for device in self.world.devices:
            for id_, (conv, seq) in device.acked_ids.items():
                sender, stored, _, _ = self.world.reference.log[conv][seq - 1]
                assert (sender, stored) == (device.user, id_)

    @invariant()
    def an_id_is_one_message(self) -> None:
        for conv, log in self.world.reference.log.items():
            names = [(sender, id_) for sender, id_, _, _ in log]
            assert len(set(names)) == len(names), conv

    @invariant()
    def sends_of_a_device_keep_their_order_above_what_it_saw(self) -> None:
        for device in self.world.devices:
            for conv, asked in device.asked.items():
                places = {id_: n for n, (_, id_, _, _) in enumerate(self.world.reference.log[conv], 1)}
                last = 0
                for id_, floor in asked:
                    if id_ in places:
                        assert places[id_] > max(last, floor), f"{conv}: {id_} of {device.user}/{device.name}"
                        last = places[id_]

    @invariant()
    def marks_are_in_order(self) -> None:
        for conv, user in list(self.world.reference.marks):
            delivered, read = self.world.reference.user_marks(conv, user)
            assert read <= delivered <= len(self.world.reference.log[conv])

    # --- the end: faults stop, and everything settles ---

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._settle()
        finally:
            self.world.close()

    def _settle(self) -> None:
        """Clients do what they must; within a bound all is answered, and every device has the log and the marks."""
        world = self.world
        world.faulty.forget()
        for _ in range(SETTLE_ROUNDS_MAX):
            for device in world.devices:
                if device.stuck:
                    self._then(0, device.lose)
                if device.wire is None:
                    self._then(0, device.connect)
                elif device.outbox:
                    self._then(0, device.resend)
                self._then(0, device.congest, False)
                device.take(ALL)
                self._then(0, device.ack, read=False)
            world.do(asyncio.sleep(0.1))
            why = next((reason for device in world.devices if (reason := self._unsettled(device))), None)
            if why is None:
                return
        raise AssertionError(f"nothing settles: {why}")

    def _unsettled(self, device: Device) -> str | None:
        reference, name = self.world.reference, f"{device.user}/{device.name}"
        if device.wire is None or device.wire.frames or device.outbox or not device.caught_up:
            return f"{name}: {device.outbox}, caught up: {device.caught_up}"
        for conv, here in device.said_here.items():
            marks = reference.user_marks(conv, device.user)
            if not _covers(marks, here):
                return f"{name} said {here} of {conv} on this connection, and it is {marks}"
        for conv in CONVS[device.user]:
            if device.held.get(conv, 0) != len(reference.log[conv]):
                return f"{name} holds {conv} up to {device.held.get(conv, 0)}"
            for user in set(conv.split(":")):
                known = device.marks.get((conv, user), (0, 0))
                said = device.said.get(conv, (0, 0)) if user == device.user else (0, 0)  # and then it is not told
                told = reference.told(conv, user, device.user)
                assert _covers(told, known)
                if (user == device.user or not self.blocked) and not _covers(list(map(max, known, said)), told):
                    return f"{name} knows {known} of {user} in {conv} and said {said}: it is {told}"
        return None


def _covers(marks: Sequence[int], other: Sequence[int]) -> bool:
    return all(one >= another for one, another in zip(marks, other, strict=True))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Faults are many here, and each is logged."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


EXAMPLES = int(os.environ.get("CHATD_MODEL_EXAMPLES", "0"))

TestCoreModel = CoreModel.TestCase
TestCoreModel.settings = settings(
    max_examples=EXAMPLES or 700,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=list(Phase) if EXAMPLES else [Phase.generate],  # to make a failure small takes minutes
    suppress_health_check=list(HealthCheck),
)
