"""The push service with scripted notifiers and a virtual clock: who is told, when, how often, and what ends it."""

from __future__ import annotations

import asyncio

from push_rig import DELIVERED, START_MS, Rig, virtual

from chatd.errors import OutcomeUnknown, StoreBroken, Unavailable
from chatd.model import Message, conv_of
from chatd.push import base
from chatd.push.base import Clear, Notification, Outcome
from chatd.settings import PushSettings

CONV = "alice:bob"
LATER = Outcome("later")


async def hang() -> Outcome:
    await asyncio.Event().wait()
    return DELIVERED


@virtual
async def test_who_is_away_is_told_at_once_and_the_mark_is_raised() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.push.start()
    rig.message()
    await rig.until(0.5)
    (_, device, payload) = rig.notifier.sent[0]
    assert isinstance(payload, Notification)
    assert (device, payload.key, payload.to, payload.sender) == ("phone", "alice:bob#1", "bob", "alice")
    assert (payload.count, payload.seq, payload.ts, payload.badge, payload.body) == (1, 1, START_MS, 1, None)
    assert len(payload.tag) == 32
    assert rig.notifier.times() == [0.0]
    assert rig.store.marks == {(CONV, "bob"): 1}
    assert rig.metrics.push_delivered == 1
    await rig.push.close()
    assert rig.notifier.closed


@virtual
async def test_who_is_there_is_told_after_the_delay_unless_a_device_takes_it() -> None:
    rig = Rig(PushSettings(delay_s=10.0, body=True))
    rig.store.subscribe("bob", "phone")
    rig.store.subscribe("carol", "phone")
    rig.here |= {"bob", "carol"}
    rig.push.start()
    rig.message(to="bob")
    rig.message(to="carol")
    await rig.until(9.9)
    assert rig.notifier.sent == []
    rig.acknowledge(CONV, "bob", 1)
    await rig.until(60.0)
    assert [(round(at_s, 2), payload.to) for at_s, _, payload in rig.notifier.sent] == [(10.0, "carol")]
    payload = rig.notifier.sent[0][2]
    assert isinstance(payload, Notification)
    assert payload.body == "word 1"
    assert rig.store.calls["owed"] == 1
    await rig.push.close()


@virtual
async def test_who_goes_is_told_of_the_next_message_at_once() -> None:
    rig = Rig(PushSettings(delay_s=10.0))
    rig.store.subscribe("bob", "phone")
    rig.here.add("bob")
    rig.push.start()
    rig.message()
    await rig.until(3.0)
    rig.here.clear()
    rig.message()
    await rig.until(60.0)
    assert (rig.notifier.times(), rig.notifier.keys()) == ([3.0], ["alice:bob#2"])
    await rig.push.close()


@virtual
async def test_nobody_is_told_of_notes_to_self_and_of_what_is_hidden() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.push.start()
    rig.message(to="bob", sender="bob")
    rig.message(hidden=True)
    await rig.until(60.0)
    assert rig.notifier.sent == []
    assert rig.store.calls["owed"] == 0
    await rig.push.close()


@virtual
async def test_a_failed_one_is_sent_again_later_with_the_same_key_and_not_before_retry_after() -> None:
    rig = Rig(PushSettings(retry_s_min=2.0, retry_s_max=600.0))
    rig.store.subscribe("bob", "phone")
    outcomes = iter([LATER, LATER, Outcome("later", retry_after_s=30.0), DELIVERED])
    rig.notifier.script = lambda payload, subscription: next(outcomes)
    rig.push.start()
    rig.message()
    await rig.until(1_000.0)
    assert rig.notifier.times() == [0.0, 1.0, 3.0, 33.0]  # half of 2 s, half of 4 s, what the service said
    assert set(rig.notifier.keys()) == {"alice:bob#1"}
    assert (rig.metrics.push_retried, rig.metrics.push_delivered) == (3, 1)
    await rig.push.close()


@virtual
async def test_only_who_was_not_reached_is_tried_again_and_an_acknowledgement_ends_it() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.store.subscribe("bob", "tablet")
    rig.notifier.script = lambda payload, one: LATER if one and one.device == "tablet" else DELIVERED
    rig.push.start()
    rig.message()
    await rig.until(3.0)
    assert (rig.notifier.times("phone"), rig.notifier.times("tablet")) == ([0.0], [0.0, 1.0, 3.0])
    assert rig.store.marks == {}
    rig.acknowledge(CONV, "bob", 1)
    await rig.until(5_000.0)
    assert len(rig.notifier.sent) == 4
    assert rig.metrics.gauges["push_pending"]() == 0
    await rig.push.close()


@virtual
async def test_a_dead_subscription_is_removed_and_a_refused_one_stays() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.store.subscribe("bob", "tablet")
    rig.notifier.script = lambda payload, one: Outcome("gone" if one and one.device == "phone" else "refused")
    rig.push.start()
    rig.message()
    await rig.until(60.0)
    assert list(rig.store.subscribed["bob"]) == ["tablet"]
    assert (rig.metrics.push_gone, rig.metrics.push_refused, rig.metrics.push_delivered) == (1, 1, 0)
    assert rig.store.marks == {(CONV, "bob"): 1}
    await rig.push.close()


@virtual
async def test_a_notifier_that_raises_is_tried_again() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    answers: list[Outcome] = []

    def script(payload: object, subscription: object) -> Outcome:
        if not answers:
            answers.append(DELIVERED)
            raise RuntimeError("a bug of another package")
        return answers[0]

    rig.notifier.script = script
    rig.push.start()
    rig.message()
    await rig.until(60.0)
    assert rig.notifier.times() == [0.0, 1.0]
    assert rig.store.marks == {(CONV, "bob"): 1}
    await rig.push.close()


@virtual
async def test_one_that_hangs_is_given_its_time_and_holds_up_nobody() -> None:
    rig = Rig(PushSettings(sends_max=4, timeout_s=10.0))
    for number in range(3):
        rig.store.subscribe(f"user{number}", "phone", endpoint=f"https://dead.example/{number}")
    rig.store.subscribe("bob", "phone")
    rig.notifier.script = lambda payload, one: hang() if one and "dead" in one.endpoint else DELIVERED
    rig.push.start()
    for number in range(3):
        rig.message(to=f"user{number}")
    await rig.until(1.0)
    for _ in range(5):
        rig.message()
        await rig.until(rig.now_s() + 1.5)
    assert sum(payload.to == "bob" for _, _, payload in rig.notifier.sent) == 5
    assert rig.metrics.push_retried == 0
    await rig.until(10.5)
    assert rig.metrics.push_retried == 3
    await rig.push.close()


@virtual
async def test_what_is_too_old_is_given_up_and_not_sent() -> None:
    rig = Rig(PushSettings(give_up_s=100.0))
    rig.store.subscribe("bob", "phone")
    rig.notifier.script = lambda payload, subscription: LATER
    rig.push.start()
    rig.message()
    await rig.until(1_000.0)
    assert max(rig.notifier.times()) <= 100.0
    assert rig.metrics.push_given_up == 1
    assert rig.store.marks == {(CONV, "bob"): 1}
    await rig.push.close()


@virtual
async def test_without_a_subscription_nothing_is_marked_and_the_store_is_asked_once() -> None:
    rig = Rig()
    rig.push.start()
    for _ in range(3):
        rig.message()
        await rig.until(rig.now_s() + 5.0)
    assert (rig.store.calls["owed"], rig.store.calls["subscriptions"]) == (1, 1)
    assert rig.store.marks == {}
    rig.store.subscribe("bob", "phone")
    rig.sender.subscribed("bob")
    rig.message()
    await rig.until(60.0)
    assert rig.notifier.keys() == ["alice:bob#4"]
    await rig.push.close()


@virtual
async def test_a_notifier_of_every_user_needs_no_subscription() -> None:
    rig = Rig(every_user=True)
    rig.push.start()
    rig.message()
    await rig.until(60.0)
    assert rig.notifier.times("") == [0.0]
    assert rig.store.marks == {(CONV, "bob"): 1}
    await rig.push.close()


@virtual
async def test_marks_that_come_while_some_are_written_go_together_and_are_never_lost() -> None:
    rig = Rig()
    users = [f"user{number}" for number in range(10)]
    for user in users:
        rig.store.subscribe(user, "phone")
    rig.store.held = asyncio.Event()
    rig.store.fails["pushed"] = OutcomeUnknown("who knows")
    rig.push.start()
    rig.message(to=users[0])
    await rig.until(1.0)
    for user in users[1:]:
        rig.message(to=user)
    await rig.until(2.0)
    assert [len(marks) for marks in rig.store.mark_calls] == [1]
    rig.store.held.set()
    await rig.until(10.0)
    del rig.store.fails["pushed"]
    await rig.until(60.0)
    assert rig.store.marks == {(conv_of("alice", user), user): 1 for user in users}
    assert len(rig.store.mark_calls[-1]) == 10
    assert len(rig.notifier.sent) == 10
    await rig.push.close()


@virtual
async def test_a_store_that_says_no_is_asked_again_and_a_broken_one_is_told() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.store.fails["owed"] = Unavailable("not now")
    rig.push.start()
    rig.message()
    await rig.until(5.0)
    assert rig.notifier.sent == []
    rig.store.fails.clear()
    await rig.until(60.0)
    assert rig.notifier.keys() == ["alice:bob#1"]
    assert rig.broken == []
    rig.store.fails["owed"] = StoreBroken("the disk lies")
    rig.message()
    await rig.until(60.5)
    assert len(rig.broken) == 1
    await rig.push.close()


@virtual
async def test_what_an_earlier_process_owed_is_sent_when_its_users_had_time_to_come_back() -> None:
    rig = Rig(PushSettings(delay_s=10.0))
    rig.store.subscribe("bob", "phone")
    rig.store.logs[CONV] = [Message(CONV, 1, "id-1", "alice", "hi", START_MS - 1_000)]
    rig.store.fails["unpushed"] = Unavailable("not yet")
    rig.push.start()
    await rig.until(4.0)
    rig.store.fails.clear()
    await rig.until(60.0)
    assert (rig.notifier.times(), rig.notifier.keys()) == ([15.0], ["alice:bob#1"])
    await rig.push.close()


@virtual
async def test_what_did_not_fit_the_outbox_is_found_in_the_store() -> None:
    rig = Rig(PushSettings(pending_max=4, delay_s=1.0))
    users = [f"user{number}" for number in range(12)]
    for user in users:
        rig.store.subscribe(user, "phone")
    rig.push.start()
    await rig.until(0.5)
    for user in users:
        rig.message(to=user)
    await rig.until(600.0)
    assert sorted(payload.to for _, _, payload in rig.notifier.sent) == sorted(users)
    await rig.push.close()


@virtual
async def test_what_is_read_on_one_device_is_cleared_from_the_others() -> None:
    rig = Rig()
    for device in ("phone", "tablet"):
        rig.store.subscribe("bob", device)
    rig.push.start()
    rig.message()
    await rig.until(5.0)
    rig.acknowledge(CONV, "bob", 1)
    await rig.until(6.0)
    assert len(rig.notifier.sent) == 2  # taken is not read
    rig.acknowledge(CONV, "bob", 1, 1, device="phone")
    rig.acknowledge(CONV, "bob", 1, 1, device="phone")
    await rig.until(60.0)
    (_, device, payload) = rig.notifier.sent[2]
    assert isinstance(payload, Clear)
    first = rig.notifier.sent[0][2]
    assert (device, payload.seq, payload.badge, payload.tag) == ("tablet", 1, 0, first.tag)
    assert len(rig.notifier.sent) == 3
    assert rig.metrics.push_clears == 1
    await rig.push.close()


@virtual
async def test_a_test_goes_to_every_subscription_once_and_says_what_came_of_it() -> None:
    rig = Rig(PushSettings(timeout_s=3.0))
    for device in ("phone", "tablet"):
        rig.store.subscribe("bob", device)
    rig.notifier.script = lambda payload, one: hang() if one and one.device == "tablet" else DELIVERED
    results = await rig.push.test("bob")
    assert [(one.device, one.kind, one.result) for one in results] == [
        ("phone", "fake", "delivered"),
        ("tablet", "fake", "later"),
    ]
    assert results[1].reason == "no answer within 3 s"
    assert all(isinstance(payload, base.Test) for _, _, payload in rig.notifier.sent)
    assert await rig.push.test("carol") == []
    await rig.push.close()


@virtual
async def test_what_is_under_way_at_the_end_is_owed_still() -> None:
    rig = Rig()
    rig.store.subscribe("bob", "phone")
    rig.notifier.script = lambda payload, subscription: hang()
    rig.push.start()
    rig.message()
    await rig.until(1.0)
    await rig.push.close()
    assert rig.now_s() == 1.0
    assert rig.store.marks == {}
    assert (await rig.store.owed(CONV, "bob")).newest is not None
