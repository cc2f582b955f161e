"""Fan-out: what of a commit goes to whom."""

from __future__ import annotations

import pytest
from msgspec import json

from chatd.delivery import Delivery
from chatd.errors import Overloaded
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Grown, Message
from chatd.presence.service import Watcher

CONV = "alice:bob"


class Device:
    """A connected device that notes what it gets."""

    def __init__(self, delivery: Delivery, user: str, device: str) -> None:
        self.user, self.device = user, device
        self.payloads: list[bytes] = []
        self.ended: list[int] = []
        self.watcher: Watcher | None = None
        self.full = False
        self.since_us = 0
        self._delivery = delivery
        delivery.add(self)

    def live(self, message: Message, payload: bytes) -> None:
        self.payloads.append(payload)

    def receipt(self, grown: Grown, payload: bytes) -> None:
        self.payloads.append(payload)

    def reconcile(self) -> None:
        raise AssertionError("not from delivery")

    def hint(self, payload: bytes) -> None:
        raise AssertionError("not from delivery")

    def end(self, code: int, reason: str) -> None:
        assert reason
        self.ended.append(code)
        self._delivery.remove(self)


@pytest.fixture
def delivery() -> Delivery:
    return Delivery(Metrics(), connections_per_user_max=3)


def message(*, hidden: bool = False, conv: str = CONV, sender: str = "alice") -> Appended:
    return Appended(Message(conv, 1, "i", sender, "hi", 1_000, hidden))


def test_a_message_goes_to_every_device_of_both_but_its_origin_encoded_once(delivery: Delivery) -> None:
    a1, a2 = Device(delivery, "alice", "1"), Device(delivery, "alice", "2")
    b1, b2 = Device(delivery, "bob", "1"), Device(delivery, "bob", "2")
    other = Device(delivery, "carol", "1")
    delivery.message(message(), a1)
    assert a1.payloads == other.payloads == []
    assert len({id(payload) for device in (a2, b1, b2) for payload in device.payloads}) == 1
    assert json.decode(b1.payloads[0]) == {
        "type": "messages",
        "conv": CONV,
        "messages": [{"seq": 1, "id": "i", "from": "alice", "body": "hi", "ts": 1_000}],
    }


def test_a_note_to_self_goes_to_each_device_once(delivery: Delivery) -> None:
    one, two = Device(delivery, "alice", "1"), Device(delivery, "alice", "2")
    delivery.message(message(conv="alice:alice"), one)
    assert (len(one.payloads), len(two.payloads)) == (0, 1)


def test_a_hidden_message_is_whole_for_its_sender_and_a_place_for_the_other(delivery: Delivery) -> None:
    alice, bob = Device(delivery, "alice", "1"), Device(delivery, "bob", "1")
    delivery.message(message(hidden=True), None)
    assert json.decode(alice.payloads[0])["messages"][0]["body"] == "hi"
    assert json.decode(bob.payloads[0])["messages"] == [{"seq": 1, "ts": 1_000, "gone": "hidden"}]


def receipt_to(delivery: Delivery, grown: Grown, *advances: Advance) -> set[str]:
    devices = [Device(delivery, user, device) for user in ("alice", "bob", "carol") for device in "12"]
    delivery.receipt(grown, advances)
    for device in devices:
        assert len({bytes(p) for p in device.payloads}) == len(device.payloads) <= 1
    return {f"{d.user}{d.device}" for d in devices if d.payloads}


def test_a_receipt_goes_to_all_but_the_device_that_knows(delivery: Delivery) -> None:
    grown = Grown(CONV, "bob", 5, 0, grew=True)
    assert receipt_to(delivery, grown, Advance(CONV, "bob", "1", 5)) == {"alice1", "alice2", "bob2"}


def test_a_device_whose_mark_is_not_the_users_is_told(delivery: Delivery) -> None:
    grown = Grown(CONV, "bob", 5, 3, grew=True)
    advances = Advance(CONV, "bob", "1", 5), Advance(CONV, "bob", "2", 3, 3)
    assert receipt_to(delivery, grown, *advances) == {"alice1", "alice2", "bob1", "bob2"}


def test_while_one_blocks_the_other_the_peer_is_not_told(delivery: Delivery) -> None:
    grown = Grown(CONV, "bob", 5, 5, grew=True, private=True)
    assert receipt_to(delivery, grown, Advance(CONV, "bob", "1", 5, 5)) == {"bob2"}


def test_the_same_device_again_ends_the_older_connection(delivery: Delivery) -> None:
    old = Device(delivery, "alice", "1")
    new = Device(delivery, "alice", "1")
    assert (old.ended, new.ended) == ([4409], [])
    delivery.remove(old)  # too late: another one has its place
    assert list(delivery.connected("alice")) == [new]


def test_a_device_that_came_elsewhere_ends_what_is_older_by_a_microsecond_and_nothing_else(delivery: Delivery) -> None:
    device = Device(delivery, "alice", "1")
    device.since_us = 1_795_552_778_334_001
    delivery.replaced("alice", "1", 1_795_552_778_334_001)
    delivery.replaced("alice", "2", 1_795_552_778_334_002)
    delivery.replaced("bob", "1", 1_795_552_778_334_002)
    assert device.ended == []
    delivery.replaced("alice", "1", 1_795_552_778_334_002)
    assert device.ended == [4409]


def test_a_user_has_at_most_so_many_connections_and_a_replacement_always_fits(delivery: Delivery) -> None:
    devices = [Device(delivery, "alice", str(i)) for i in range(3)]
    with pytest.raises(Overloaded):
        Device(delivery, "alice", "4")
    again = Device(delivery, "alice", "0")
    assert devices[0].ended == [4409]
    assert set(delivery.connected()) == {again, *devices[1:]}


def test_end_closes_one_device_or_all_of_a_user(delivery: Delivery) -> None:
    a1, a2, b1 = (Device(delivery, user, device) for user, device in (("alice", "1"), ("alice", "2"), ("bob", "1")))
    delivery.end("alice", "2", 4401)
    assert (a1.ended, a2.ended, b1.ended) == ([], [4401], [])
    delivery.end("alice", None, 4403)
    assert (a1.ended, b1.ended) == ([4403], [])
    assert list(delivery.connected()) == [b1]
    delivery.message(message(), None)
    assert len(b1.payloads) == 1
