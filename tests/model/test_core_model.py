"""The core (sequencer, delivery, connections, catch-up) under everything that can happen, against a reference model.

The examples are the same in every run (derandomize): a build must not fail for what was drawn, and who sees it fail
can repeat it. To look for what these examples miss, ``CHATD_MODEL_EXAMPLES=5000`` draws that many new ones.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine
from typing import Any, cast

import pytest
import structlog
from device import Device
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from reference import ComparedStore, Reference, SlowStore
from virtual_time import VirtualLoop

from chatd import settings as configuration
from chatd.app import Server
from chatd.connection import Connection
from chatd.model import Account, conv_of
from chatd.passwords import Passwords
from chatd.store.base import Store
from chatd.testing.faults import Fault, FaultyStore
from chatd.testing.server import GENEROUS

USERS = ("alice", "bob")
NAMES = ("one", "two")
CONVS = {"alice": (conv_of("alice", "bob"), conv_of("alice", "alice")), "bob": (conv_of("alice", "bob"),)}
SETTLE_ROUNDS_MAX = 200
PASSWORDS = Passwords()
SETTINGS = configuration.load(
    env={},
    overrides={**GENEROUS, "store.kind": "memory", "limits.window_messages_max": 4, "limits.initial_history": 1_000},
)

devices = st.integers(0, 3)


class World:
    """One store that lasts, servers over it one after the other, four devices, and a clock that is a number."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.compared = ComparedStore()
        self.faulty = FaultyStore(cast(Store, self.compared))
        self.store = SlowStore(self.faulty, random.Random(seed))
        self.connections: list[Connection] = []
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
    """Each rule is one thing that happens; time passes in `pass_time` alone, so they happen in one another's midst."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.sends = 0
        self.blocked = False
        for device in self.world.devices:
            self.world.do(self._now(device.connect))

    async def _now(self, action: Any, *args: Any, **kwargs: Any) -> None:
        action(*args, **kwargs)

    def _device(self, number: int) -> Device:
        return self.world.devices[number]

    # --- what happens ---

    @rule(ms=st.sampled_from((1, 2, 5, 20, 600)))
    def pass_time(self, ms: int) -> None:
        self.world.do(asyncio.sleep(ms / 1000))

    @rule(number=devices, which=st.integers(0, 1), count=st.integers(1, 4))
    def send(self, number: int, which: int, count: int) -> None:
        device = self._device(number)
        convs = CONVS[device.user]
        for _ in range(count):
            self.sends += 1
            id_ = f"01890000-0000-7000-8000-{self.sends:012x}"
            self.world.do(self._now(device.send, convs[which % len(convs)], id_, f"message {self.sends}"))

    @rule(number=devices)
    def retry(self, number: int) -> None:
        self.world.do(self._now(self._device(number).resend))

    @rule(number=devices, which=st.integers(0, 1_000))
    def use_an_id_again(self, number: int, which: int) -> None:
        device = self._device(number)
        if device.acked_ids:
            id_ = sorted(device.acked_ids)[which % len(device.acked_ids)]
            self.world.do(self._now(device.reuse, id_))

    @rule(number=devices, count=st.integers(1, 20))
    def receive(self, number: int, count: int) -> None:
        self._device(number).take(count)

    @rule(number=devices, read=st.booleans())
    def acknowledge(self, number: int, read: bool) -> None:
        self.world.do(self._now(self._device(number).ack, read=read))

    @rule(number=devices)
    def lose_connection(self, number: int) -> None:
        self.world.do(self._now(self._device(number).lose))

    @rule(number=devices)
    def reconnect(self, number: int) -> None:
        self.world.do(self._now(self._device(number).connect))

    @rule(number=devices, on=st.booleans())
    def congest(self, number: int, on: bool) -> None:
        self.world.do(self._now(self._device(number).congest, on))

    @rule(fault=st.sampled_from(("gone", "unknown_stored", "unknown_lost")), commits=st.integers(1, 2))
    def store_fails(self, fault: Fault, commits: int) -> None:
        self.world.faulty.fail_next(fault, commits)

    @rule(user=st.integers(0, 1), on=st.booleans())
    def block(self, user: int, on: bool) -> None:
        self.blocked = self.blocked or on
        self.world.do(self.world.compared.block(USERS[user], USERS[1 - user], on=on))

    @rule()
    def crash(self) -> None:
        self.world.do(self.world.crash())

    # --- what must always hold; what each frame must be is judged as it is written and as it arrives ---

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
            self._judge_end()
        finally:
            self.world.close()

    def _settle(self) -> None:
        world = self.world
        world.store.inner = world.compared
        for _ in range(SETTLE_ROUNDS_MAX):
            for device in world.devices:
                if device.wire is None:
                    world.do(self._now(device.connect))
                elif device.outbox:
                    world.do(self._now(device.resend))
                world.do(self._now(device.congest, False))
                device.take(1_000_000)
                world.do(self._now(device.ack, read=False))
            world.do(asyncio.sleep(0.1))
            if all(self._settled(device) for device in world.devices):
                return
        pending = [(d.user, d.name, d.caught_up, d.outbox, d.held) for d in world.devices]
        raise AssertionError(f"nothing settles: {pending}")

    def _settled(self, device: Device) -> bool:
        if device.wire is None or device.wire.frames or device.outbox or not device.caught_up:
            return False
        log = self.world.reference.log
        return all(device.held.get(conv, 0) == len(log[conv]) for conv in CONVS[device.user])

    def _judge_end(self) -> None:
        """Every device knows the marks: it was told them, or said them itself, and then it is not told."""
        reference = self.world.reference
        for device in self.world.devices:
            for conv in CONVS[device.user]:
                for user in set(conv.split(":")):
                    known = device.marks.get((conv, user), (0, 0))
                    said = device.said.get(conv, (0, 0)) if user == device.user else (0, 0)
                    told = reference.told(conv, user, device.user)
                    who = f"{device.user}/{device.name} knows {known} of {user} in {conv}, said {said}: it is {told}"
                    assert known[0] <= told[0], who
                    assert known[1] <= told[1], who
                    if user == device.user or not self.blocked:
                        assert max(known[0], said[0]) >= told[0], who
                        assert max(known[1], said[1]) >= told[1], who


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
    max_examples=EXAMPLES or 400,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
