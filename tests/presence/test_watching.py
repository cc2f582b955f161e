"""What subscribers are told and when, with literal times: an interval of 5 s, a slot of 50 ms."""

from __future__ import annotations

from itertools import pairwise

from chatd.presence.state import AWAY, OFFLINE, ONLINE, Shown
from chatd.presence.watching import SLOTS, Subscriber, Watching

INTERVAL_S = 5.0
Told = list[tuple[Subscriber, list[tuple[str, Shown]]]]


class World:
    """Users as the test says, and everything that was told."""

    def __init__(self) -> None:
        self.users: dict[str, Shown] = {}
        self.watching = Watching(lambda user: self.users.get(user, OFFLINE), interval_s=INTERVAL_S)

    def subscriber(self, *users: str, shows_last_seen: bool = True) -> Subscriber:
        one = Subscriber(shows_last_seen=shows_last_seen)
        self.watching.add(one)
        self.watching.watch(one, users)
        return one

    def set(self, user: str, shown: Shown, now_s: float) -> None:
        self.users[user] = shown
        self.watching.changed(user, now_s)

    def run(self, until_s: float) -> list[tuple[float, Subscriber, dict[str, Shown]]]:
        """Ask whenever the batcher wants to be asked."""
        told = []
        while (at_s := self.watching.next_s()) is not None and at_s <= until_s:
            told += [(at_s, one, dict(states)) for one, states in self.watching.due(at_s, 7)]
        return told


def test_nothing_to_hear_no_time_to_wake() -> None:
    world = World()
    world.subscriber("alice")
    assert world.watching.next_s() is None
    assert world.watching.due(1_000.0, 7) == []


def test_the_answer_is_the_present_state_and_changes_are_told_against_it() -> None:
    world = World()
    world.set("alice", ONLINE, 0.0)
    one = Subscriber(shows_last_seen=True)
    world.watching.add(one)
    assert world.watching.watch(one, ["alice", "bob"]) == [("alice", ONLINE), ("bob", OFFLINE)]
    assert world.run(INTERVAL_S) == []  # alice changed before: the answer said so
    world.set("alice", AWAY, 6.0)
    ((at_s, who, states),) = world.run(20.0)
    assert (who, states) == (one, {"alice": AWAY})
    assert 6.0 < at_s <= 6.0 + INTERVAL_S


def test_all_that_changed_in_an_interval_comes_in_one_frame() -> None:
    world = World()
    one = world.subscriber("alice", "bob", "carol")
    world.set("alice", ONLINE, 1.0)
    world.set("bob", ONLINE, 1.001)
    world.set("carol", ONLINE, 1.002)
    ((_, who, states),) = world.run(1.0 + INTERVAL_S + 0.1)
    assert (who, states) == (one, {"alice": ONLINE, "bob": ONLINE, "carol": ONLINE})


def test_who_flaps_inside_an_interval_costs_nothing() -> None:
    world = World()
    world.users["alice"] = ONLINE
    world.subscriber("alice")
    for n in range(100):
        world.set("alice", AWAY if n % 2 == 0 else ONLINE, 1.0)
    assert world.run(20.0) == []
    assert world.watching.next_s() is None


def test_a_subscriber_hears_at_most_once_an_interval_however_much_changes() -> None:
    world = World()
    people = [world.subscriber("alice", "bob") for _ in range(250)]
    told: dict[Subscriber, list[float]] = {one: [] for one in people}
    for step in range(600):  # a minute
        now_s = step / 10
        world.set("alice", ONLINE if step % 2 else AWAY, now_s)
        world.set("bob", ONLINE if step % 3 else AWAY, now_s)
        for at_s, one, _ in world.run(now_s):
            told[one].append(at_s)
    for times in told.values():
        assert len(times) >= 6
        assert min(b - a for a, b in pairwise(times)) > INTERVAL_S - 0.001


def test_frames_are_spread_over_the_interval() -> None:
    world = World()
    for _ in range(10 * SLOTS):
        world.subscriber("alice")
    world.set("alice", ONLINE, 0.0)
    times = [at_s for at_s, _, _ in world.run(INTERVAL_S)]
    assert len(times) == 10 * SLOTS
    assert {times.count(at_s) for at_s in set(times)} == {10}


def test_who_is_quiet_hears_afterwards_what_it_missed_and_no_more() -> None:
    world = World()
    world.users.update(alice=ONLINE, bob=ONLINE)
    one = world.subscriber("alice", "bob")
    world.watching.quiet(one, True, 0.0)
    world.set("alice", AWAY, 1.0)
    world.set("bob", AWAY, 1.0)
    world.set("bob", ONLINE, 2.0)
    assert world.run(100.0) == []
    world.watching.quiet(one, False, 100.0)
    ((at_s, _, states),) = world.run(200.0)
    assert states == {"alice": AWAY}
    assert 100.0 < at_s <= 100.0 + INTERVAL_S
    assert world.watching.next_s() is None


def test_after_a_long_pause_each_slot_is_told_once() -> None:
    world = World()
    people = [world.subscriber("alice") for _ in range(SLOTS)]
    world.set("alice", ONLINE, 0.0)
    told = []
    for _ in range(SLOTS):
        told += world.watching.due(1_000.0, 7)
    assert {one for one, _ in told} == set(people)
    assert len(told) == SLOTS
    assert world.run(2_000.0) == []
    assert world.watching.next_s() is None


def test_a_turn_looks_at_few_and_goes_on_with_the_others_at_once() -> None:
    world = World()
    people = [world.subscriber("alice") for _ in range(10 * SLOTS)]  # ten a slot
    world.set("alice", ONLINE, 0.0)
    at_s = world.watching.next_s()
    assert at_s is not None
    first = world.watching.due(at_s, 7)
    assert len(first) == 7
    late = first[0][0]
    assert world.watching.next_s() == at_s
    gone = next(one for one in people if one.slot == late.slot and one.told["alice"] is OFFLINE)
    world.watching.remove(gone)  # who leaves in between is not told
    assert len(world.watching.due(at_s, 7)) == 2
    after_s = world.watching.next_s()
    assert after_s is not None
    assert after_s > at_s


def test_who_hides_its_last_seen_does_not_see_it_of_others() -> None:
    world = World()
    world.users["alice"] = Shown("offline", 7)
    hiding = world.subscriber("alice", shows_last_seen=False)
    assert hiding.told["alice"] == OFFLINE
    showing = world.subscriber("alice")
    assert showing.told["alice"] == Shown("offline", 7)
    showing.shows_last_seen = False
    world.watching.refresh(showing, 1.0)
    ((_, who, states),) = world.run(10.0)
    assert (who, states) == (showing, {"alice": OFFLINE})


def test_who_no_longer_watches_hears_nothing() -> None:
    world = World()
    one = world.subscriber("alice", "bob")
    other = world.subscriber("alice")
    world.set("alice", ONLINE, 0.0)
    world.set("bob", ONLINE, 0.0)
    del one.told["alice"]
    world.watching.remove(other)
    world.watching.remove(other)  # twice is fine
    ((_, who, states),) = world.run(10.0)
    assert (who, states) == (one, {"bob": ONLINE})
