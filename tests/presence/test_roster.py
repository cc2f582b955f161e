"""Who is there, with literal times."""

from __future__ import annotations

from chatd.presence.state import AWAY, OFFLINE, ONLINE, Roster, Shown


def roster(*, cached: int = 10) -> Roster:
    return Roster(grace_s=10.0, last_seen_cached_max=cached)


def test_one_state_a_user_online_if_any_device_is_away_if_all_are() -> None:
    people = roster()
    assert people.shown("alice") is OFFLINE
    people.connected("alice", "phone", shows_last_seen=True)
    assert people.shown("alice") is ONLINE
    people.status("alice", "phone", away=True)
    assert people.shown("alice") is AWAY
    people.connected("alice", "laptop", shows_last_seen=True)
    assert people.shown("alice") is ONLINE
    people.status("alice", "laptop", away=True)
    assert people.shown("alice") is AWAY
    people.status("alice", "phone", away=False)
    assert people.shown("alice") is ONLINE
    people.lost("alice", "phone", 5.0, 5_000)
    assert people.shown("alice") is AWAY
    assert people.next_gone_s() is None


def test_the_last_connection_leaves_with_a_grace_and_is_seen_when_it_left() -> None:
    people = roster()
    people.connected("alice", "phone", shows_last_seen=True)
    people.status("alice", "phone", away=True)
    people.lost("alice", "phone", 5.0, 1_005_000)
    assert people.shown("alice") is AWAY
    assert people.next_gone_s() == 15.0
    assert people.gone(14.999) == {}
    assert people.gone(15.0) == {"alice": 1_005_000}
    assert people.shown("alice") == Shown("offline", 1_005_000)
    assert len(people) == 0


def test_who_comes_back_within_the_grace_never_went() -> None:
    people = roster()
    people.connected("alice", "phone", shows_last_seen=True)
    people.lost("alice", "phone", 5.0, 5_000)
    people.connected("alice", "phone", shows_last_seen=True)
    assert people.gone(100.0) == {}
    assert people.shown("alice") is ONLINE
    people.lost("alice", "phone", 100.0, 100_000)
    assert people.gone(109.9) == {}
    assert people.gone(110.0) == {"alice": 100_000}


def test_those_who_leave_first_are_gone_first() -> None:
    people = roster()
    for user in ("alice", "bob", "carol"):
        people.connected(user, "phone", shows_last_seen=True)
    people.lost("bob", "phone", 1.0, 1_000)
    people.lost("alice", "phone", 2.0, 2_000)
    assert people.leaving() == {"bob": 1_000, "alice": 2_000}
    assert people.gone(11.5) == {"bob": 1_000}
    assert people.gone(12.0) == {"alice": 2_000}
    assert people.here == ["carol"]


def test_an_unknown_device_changes_nothing() -> None:
    people = roster()
    people.status("alice", "phone", away=True)
    people.lost("alice", "phone", 1.0, 1_000)
    people.connected("alice", "laptop", shows_last_seen=True)
    people.lost("alice", "phone", 1.0, 1_000)
    people.status("alice", "phone", away=True)
    assert people.shown("alice") is ONLINE


def test_who_hides_its_last_seen_is_only_offline() -> None:
    people = roster()
    people.connected("alice", "phone", shows_last_seen=False)
    assert people.hides("alice")
    people.lost("alice", "phone", 1.0, 1_000)
    assert people.gone(11.0) == {"alice": 1_000}  # the store notes it all the same
    assert people.shown("alice") is OFFLINE
    people.connected("bob", "phone", shows_last_seen=True)
    people.lost("bob", "phone", 1.0, 1_000)
    people.hide("bob", True)
    people.gone(11.0)
    assert people.shown("bob") is OFFLINE


def test_hiding_when_gone_already_takes_it_away() -> None:
    people = roster()
    people.last_seen("alice", 7_000)
    assert people.shown("alice") == Shown("offline", 7_000)
    people.hide("alice", True)
    assert people.shown("alice") is OFFLINE


def test_what_the_store_knows_counts_only_for_those_who_are_not_here_and_not_known_better() -> None:
    people = roster()
    people.connected("alice", "phone", shows_last_seen=True)
    people.last_seen("alice", 1)
    assert people.shown("alice") is ONLINE
    people.lost("alice", "phone", 5.0, 5_000)
    people.last_seen("alice", 1)
    people.gone(15.0)
    people.last_seen("alice", 1)
    assert people.shown("alice") == Shown("offline", 5_000)
    people.last_seen("alice", None)
    assert people.shown("alice") is OFFLINE


def test_the_memory_of_those_who_are_gone_is_bounded() -> None:
    people = roster(cached=2)
    for number, user in enumerate(("alice", "bob", "carol")):
        people.last_seen(user, number)
    assert people.shown("alice") is OFFLINE
    assert people.shown("bob") == Shown("offline", 1)
    assert people.shown("carol") == Shown("offline", 2)
