"""What goes wrong beside a push – a device, a service, the store, a notifier's code – costs nobody else theirs."""

from __future__ import annotations

import asyncio
import random

from push_rig import DELIVERED, Rig, virtual

from chatd.errors import StoreBroken, Unavailable
from chatd.model import conv_of
from chatd.push.base import Clear, Outcome
from chatd.push.service import CLOSE_S_MAX, STORE_AGAIN_S_MAX, WALK_EVERY_S
from chatd.settings import PushSettings

CONV = "alice:bob"


async def hang() -> Outcome:
    await asyncio.Event().wait()
    return DELIVERED


async def nothing() -> Outcome:
    return None  # type: ignore[return-value]


async def slowly(delay_s: float) -> Outcome:
    await asyncio.sleep(delay_s)
    return DELIVERED


@virtual
async def test_a_device_that_subscribes_anew_between_two_attempts_is_told() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone", endpoint="https://old.example/")
    rig.notifier.script = lambda payload, one: Outcome("later") if one and "old" in one.endpoint else DELIVERED
    rig.push.start()
    rig.message()
    await rig.until(0.5)
    rig.store.subscribe("bob", "phone", endpoint="https://new.example/")
    await rig.until(60.0)
    assert rig.metrics.push_delivered == 1
    assert rig.store.marks == {(CONV, "bob"): 1}
    await rig.push.close()


@virtual
async def test_a_device_whose_service_is_down_holds_up_no_other_device() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.store.subscribe("bob", "tablet")
    down = Outcome("later", retry_after_s=7_200.0)
    rig.notifier.script = lambda payload, one: down if one and one.device == "tablet" else DELIVERED
    rig.push.start()
    for at_s in (0.0, 60.0, 600.0):
        await rig.until(at_s)
        rig.message()
    await rig.until(7_000.0)
    assert rig.notifier.times("phone") == [0.0, 60.0, 600.0]
    assert rig.notifier.times("tablet") == [0.0]
    await rig.until(7_300.0)
    assert rig.notifier.times("tablet") == [0.0, 7_200.0]
    assert rig.notifier.keys()[-1] == "alice:bob#3"
    await rig.push.close()


@virtual
async def test_a_store_that_is_down_is_asked_by_few_and_less_often_and_then_all_is_sent() -> None:
    rig = Rig()
    users = [f"user{number}" for number in range(500)]
    for user in users:
        rig.store.subscribe(user, "phone")
    rig.store.fails["owed"] = Unavailable("not now")
    rig.push.start()
    for user in users:
        rig.message(to=user)
    await rig.until(60.0)
    assert rig.store.calls["owed"] <= 7 * rig.settings.sends_max
    rig.message()  # noted while nothing is begun
    rig.store.fails.clear()
    rig.store.subscribe("bob", "phone")
    await rig.until(60.0 + STORE_AGAIN_S_MAX + 60.0)
    assert rig.metrics.push_delivered == len(users) + 1
    await rig.push.close()


@virtual
async def test_what_comes_when_the_store_is_held_and_nothing_else_waits_is_sent() -> None:
    rig = Rig()
    for user in ("bob", "carol"):
        rig.store.subscribe(user, "phone")
    rig.store.fails["owed"] = Unavailable("not now")
    rig.push.start()
    rig.message(to="carol")
    await rig.until(0.1)
    rig.store.fails.clear()
    rig.acknowledge("alice:carol", "carol", 1)
    rig.message(to="bob")
    await rig.until(60.0)
    assert rig.notifier.keys() == ["alice:bob#1"]
    await rig.push.close()


@virtual
async def test_a_walk_that_fails_for_a_fault_of_ours_is_not_made_in_a_circle() -> None:
    rig = Rig()
    rig.store.fails["unpushed"] = RuntimeError("a bug")
    rig.push.start()
    await rig.until(0.5 * WALK_EVERY_S)
    assert rig.store.calls["unpushed"] == 1
    await rig.until(1.5 * WALK_EVERY_S)
    assert rig.store.calls["unpushed"] == 2
    await rig.push.close()


@virtual
async def test_a_disk_that_cannot_be_trusted_is_told_of_by_a_clear_too() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.push.start()
    rig.message()
    await rig.until(1.0)
    rig.store.fails["badge"] = StoreBroken("the disk lies")
    rig.acknowledge(CONV, "bob", 1, 1)
    await rig.until(2.0)
    assert len(rig.broken) == 1
    await rig.push.close()


@virtual
async def test_clears_that_hang_keep_no_notification_waiting() -> None:
    rig = Rig(PushSettings(sends_max=8))
    users = [f"user{number}" for number in range(100)]
    for user in users:
        rig.store.subscribe(user, "phone")
    rig.push.start()
    for user in users:
        rig.message(to=user)
    await rig.until(60.0)
    assert rig.metrics.push_delivered == len(users)
    rig.notifier.script = lambda payload, one: hang() if isinstance(payload, Clear) else DELIVERED
    for user in users:
        rig.acknowledge(conv_of("alice", user), user, 1, 1)
    rig.store.subscribe("bob", "phone")
    await rig.until(61.0)
    rig.message()
    await rig.until(61.5)
    assert rig.metrics.push_delivered == len(users) + 1
    await rig.push.close()


@virtual
async def test_what_is_read_while_its_notification_is_under_way_is_cleared() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.notifier.script = lambda payload, one: DELIVERED if isinstance(payload, Clear) else slowly(1.0)
    rig.push.start()
    rig.message()
    await rig.until(0.5)
    rig.acknowledge(CONV, "bob", 1, 1)
    await rig.until(60.0)
    assert [type(payload).__name__ for _, _, payload in rig.notifier.sent] == ["Notification", "Clear"]
    await rig.push.close()


@virtual
async def test_a_clear_that_gets_through_the_second_time_counts_and_one_that_is_refused_does_not() -> None:
    rig = Rig()
    clears = {
        "phone": [Outcome("later"), DELIVERED],
        "tablet": [Outcome("later"), DELIVERED],
        "tv": [Outcome("refused")],
    }
    for device in clears:
        rig.store.subscribe("bob", device)
    rig.notifier.script = lambda payload, one: (
        clears[one.device].pop(0) if one and isinstance(payload, Clear) else DELIVERED
    )
    rig.push.start()
    rig.message()
    await rig.until(1.0)
    rig.acknowledge(CONV, "bob", 1, 1)
    await rig.until(60.0)
    assert rig.metrics.push_clears == 2
    await rig.push.close()


@virtual
async def test_a_notifier_that_does_not_let_go_keeps_no_server_from_ending() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    stopped = asyncio.Event()

    async def stubborn() -> Outcome:
        while not stopped.is_set():
            try:
                await stopped.wait()
            except asyncio.CancelledError:
                continue
        return DELIVERED

    async def fail() -> None:
        raise RuntimeError("cannot close")

    rig.notifier.script = lambda payload, subscription: stubborn()
    rig.notifier.close = fail  # type: ignore[method-assign]
    rig.push.start()
    rig.message()
    await rig.until(1.0)
    await rig.push.close()
    assert rig.now_s() == 1.0 + CLOSE_S_MAX
    stopped.set()
    await rig.until(10.0)


@virtual
async def test_many_for_one_push_service_wait_for_a_slot_and_not_for_ever_longer() -> None:
    rig = Rig()
    users = [f"user{number}" for number in range(5_000)]
    for user in users:
        rig.store.subscribe(user, "phone", endpoint=f"https://one.example/{user}")
    rig.notifier.script = lambda payload, subscription: slowly(0.1)
    rig.push._random = random.Random(1).random  # else all of them come back at the same time
    rig.push.start()
    for user in users:
        rig.message(to=user)
    await rig.until(20.0)  # 48 at a time without a pause would take 10.4 s
    assert rig.metrics.push_delivered == len(users)
    await rig.push.close()


@virtual
async def test_a_notifier_that_breaks_its_contract_or_an_endpoint_that_is_no_url_costs_one_device_only() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.store.subscribe("bob", "tablet", endpoint="app://[token")
    rig.notifier.script = lambda payload, one: DELIVERED if one and one.device == "phone" else nothing()
    rig.push.start()
    rig.message()
    await rig.until(60.0)
    assert rig.notifier.times("phone") == [0.0]
    assert len(rig.notifier.times("tablet")) > 2
    assert rig.metrics.push_delivered == 1
    await rig.push.close()
