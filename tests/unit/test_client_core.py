"""The protocol core of the client, frame by frame, with literal times."""

from __future__ import annotations

from typing import Literal

from chatd import protocol as p
from chatd.client.core import Answered, Core, Grew, Leave, Replied, Saved
from chatd.client.events import (
    CaughtUpEvent,
    ConnectedEvent,
    ConversationMarks,
    DisconnectedEvent,
    Event,
    GoneEvent,
    MessageEvent,
    PresenceEvent,
    ReceiptEvent,
    ResetEvent,
    Sent,
    TypingEvent,
)
from chatd.errors import Forbidden, NotFound
from chatd.model import Marks

CONV = "alice:bob"
LIMITS = p.Limits(frame_bytes_max=65_536, body_bytes_max=16_384, window=256, initial_history=50)


def highest() -> float:
    return 1.0


def welcome(*, reset: bool = False, incarnation: str = "i1", limits: p.Limits = LIMITS) -> p.Welcome:
    return p.Welcome(
        user="alice",
        device="d",
        session="s",
        now=0,
        incarnation=incarnation,
        reset=reset,
        heartbeat_s=25.0,
        durability="memory",
        limits=limits,
    )


def connected(*, events_messages_max: int = 100) -> Core:
    core = Core(highest, outbox_messages_max=100, events_messages_max=events_messages_max)
    core.load(Saved(CONV, 0, 0, ConversationMarks()))
    core.welcomed(welcome())
    core.receive(p.CaughtUp(since="s0"), 0.0)
    taken(core)
    return core


def live(first: int, last: int | None = None, *, ref: p.Ref | None = None) -> p.Messages:
    seqs = range(first, (last or first) + 1)
    log = tuple(p.Entry(seq=s, ts=s, id=f"id{s}", sender="bob", body=f"body {s}") for s in seqs)
    return p.Messages(conv=CONV, messages=log, ref=ref)


def taken(core: Core) -> list[Event]:
    events = []
    while (event := core.take()) is not None:
        events.append(event)
    return events


def seqs(core: Core) -> list[int]:
    return [event.seq for event in taken(core) if isinstance(event, MessageEvent | GoneEvent)]


def queue_send(core: Core, name: str, *, to: str = "bob") -> None:
    core.outbox.add(core.outbox.make(name, f"body of {name}", to=to))


def test_a_message_is_acknowledged_when_the_application_took_it_and_not_before() -> None:
    core = connected()
    core.receive(live(1, 3), 0.0)
    assert core.due(0.0) == []
    assert [core.take() is not None for _ in range(2)] == [True, True]
    assert core.due(0.0) == [p.Ack(conv=CONV, seq=2)]
    assert core.due(0.0) == []


def test_the_first_message_of_a_conversation_is_acknowledged_when_its_place_is_stored() -> None:
    core = Core(highest, outbox_messages_max=1, events_messages_max=9)
    core.welcomed(welcome())
    core.receive(live(51), 0.0)
    taken(core)
    assert core.due(0.0) == []
    unsaved = core.unsaved()
    assert unsaved is not None
    core.stored(unsaved)
    assert core.due(0.0) == [p.Ack(conv=CONV, seq=51)]


def test_a_message_is_stored_as_dealt_with_when_the_next_event_is_asked_for() -> None:
    core = connected()
    core.receive(live(1, 2), 0.0)
    for dealt_with in (0, 1):
        core.take()
        unsaved = core.unsaved()
        assert unsaved is not None
        assert [(row.conv, row.taken) for row in unsaved.conversations] == [(CONV, dealt_with)]


def test_own_messages_come_as_events_in_their_place() -> None:
    core = connected()
    queue_send(core, "one")
    assert core.due(0.0) == [p.Send(id="one", to="bob", body="body of one", n=1)]
    assert core.receive(p.Sent(id="one", conv=CONV, seq=1, ts=5), 0.0) == [Answered("one", Sent(CONV, 1, 5))]
    core.receive(live(2), 0.0)
    core.receive(p.Sent(id="one", conv=CONV, seq=1, ts=5), 0.0)
    events = taken(core)
    assert events[0] == MessageEvent(CONV, 1, "one", "alice", "body of one", 5, mine=True)
    assert [event.seq for event in events if isinstance(event, MessageEvent)] == [1, 2]


def test_a_duplicate_answer_moves_nothing() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    queue_send(core, "two")
    core.due(0.0)
    effects = core.receive(p.Sent(id="two", conv=CONV, seq=2, ts=5, duplicate=True), 0.0)
    assert effects == [Answered("two", Sent(CONV, 2, 5))]
    assert seqs(core) == [1]
    core.receive(live(2), 0.0)
    assert seqs(core) == [2]


def test_a_gap_is_fetched_page_by_page_and_nothing_comes_early() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    core.receive(live(5), 0.0)
    assert seqs(core) == [1]
    frames = core.due(0.0)
    assert frames == [p.Ack(conv=CONV, seq=1), p.History(conv=CONV, after=1, limit=100, ref=1)]
    assert core.due(0.0) == []
    core.receive(live(2, 3, ref=1), 0.0)
    assert seqs(core) == [2, 3]
    assert p.History(conv=CONV, after=3, limit=100, ref=2) in core.due(0.0)
    core.receive(live(4, 5, ref=2), 0.0)
    core.receive(live(6), 0.0)
    assert seqs(core) == [4, 5, 6]


def test_a_gap_that_live_messages_filled_in_the_meantime_is_no_fault() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    core.receive(live(3), 0.0)
    core.due(0.0)
    core.receive(live(2, 3), 0.0)
    assert core.receive(live(2, 3, ref=1), 0.0) == []
    assert seqs(core) == [1, 2, 3]


def test_a_gap_that_history_does_not_fill_ends_the_connection() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    core.receive(live(3), 0.0)
    core.due(0.0)
    effects = core.receive(p.Messages(conv=CONV, messages=(), ref=1), 0.0)
    assert effects == [Leave("history of alice:bob after 1 does not go on at 2")]


def test_a_refused_fetch_is_repeated_when_it_may_be() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    core.receive(live(3), 0.0)
    core.due(0.0)
    core.receive(p.Error(code="rate_limited", message="m", temporary=True, retry_after_ms=500, ref=1), 10.0)
    assert core.deadline_s() == 10.5
    assert core.due(10.4) == []
    assert core.due(10.5) == [p.History(conv=CONV, after=1, limit=99, ref=2)]
    assert core.deadline_s() is None


def test_a_full_queue_leaves_messages_on_the_server_and_fetches_them_later() -> None:
    core = connected(events_messages_max=4)
    core.receive(live(1, 10), 0.0)
    core.receive(live(11), 0.0)
    assert core.due(0.0) == []
    assert [event.seq for event in (core.take(),) if isinstance(event, MessageEvent)] == [1]
    assert core.due(0.0) == [p.Ack(conv=CONV, seq=1)]
    assert seqs(core) == [2, 3, 4]
    assert core.due(0.0)[1:] == [p.History(conv=CONV, after=4, limit=4, ref=1)]
    core.receive(live(5, 8, ref=1), 0.0)
    assert seqs(core) == [5, 6, 7, 8]
    assert core.due(0.0)[1:] == [p.History(conv=CONV, after=8, limit=4, ref=2)]
    core.receive(live(9, 11, ref=2), 0.0)
    assert seqs(core) == [9, 10, 11]


def test_receipts_that_wait_are_one_and_the_newest() -> None:
    core = connected(events_messages_max=1)
    for seq in range(1, 1000):
        core.receive(p.Receipt(conv=CONV, user="bob", delivered=seq, read=0), 0.0)
    assert taken(core) == [ReceiptEvent(CONV, "bob", 999, 0)]


def test_marks_grow_and_never_shrink() -> None:
    core = connected()
    assert core.receive(p.Receipt(conv=CONV, user="bob", delivered=5, read=3), 0.0) == [Grew(CONV)]
    assert core.receive(p.Receipt(conv=CONV, user="bob", delivered=4, read=3), 0.0) == []
    core.receive(p.Receipt(conv=CONV, user="alice", delivered=2, read=1), 0.0)
    assert core.marks(CONV) == ConversationMarks(mine=Marks(2, 1), peer=Marks(5, 3))


def test_notes_to_self_are_delivered_by_the_own_marks() -> None:
    core = connected()
    core.receive(p.Receipt(conv="alice:alice", user="alice", delivered=1, read=1), 0.0)
    assert core.marks("alice:alice").peer == Marks(1, 1)


def test_a_conversation_that_changed_brings_marks() -> None:
    core = connected()
    row = p.ConversationRow(
        conv=CONV, peer="bob", head=9, delivered=8, read=7, peer_delivered=6, peer_read=5, unread=1, updated=0
    )
    assert core.receive(p.ConversationList(conversations=(row,)), 0.0) == [Grew(CONV)]
    assert core.marks(CONV) == ConversationMarks(mine=Marks(8, 7), peer=Marks(6, 5))


def test_read_is_said_until_it_is_confirmed() -> None:
    core = connected()
    core.read(CONV, 3)
    assert core.due(0.0) == [p.Read(conv=CONV, seq=3, ref=1)]
    core.read(CONV, 5)
    assert core.due(0.0) == []
    core.receive(p.Ok(ref=1), 0.0)
    assert core.due(0.0) == [p.Read(conv=CONV, seq=5, ref=2)]
    core.disconnected("gone", 1.0)
    core.welcomed(welcome())
    assert core.due(2.0) == [p.Read(conv=CONV, seq=5, ref=3)]
    core.receive(p.Ok(ref=3), 2.0)
    core.disconnected("gone", 3.0)
    core.welcomed(welcome())
    assert core.due(4.0) == []


def test_a_read_that_is_refused_for_good_is_dropped() -> None:
    core = connected()
    core.read(CONV, 3)
    core.due(0.0)
    core.receive(p.Error(code="not_found", message="m", temporary=False, ref=1), 0.0)
    assert core.due(100.0) == []


def test_the_bookmark_comes_after_everything_before_it_and_counts_when_dealt_with() -> None:
    core = connected()
    core.receive(live(1), 0.0)
    core.receive(live(3), 0.0)
    core.receive(p.CaughtUp(since="s1"), 0.0)
    assert CaughtUpEvent("s1") not in taken(core)
    core.due(0.0)
    core.receive(live(2, 3, ref=1), 0.0)
    assert taken(core)[-1] == CaughtUpEvent("s1")
    assert core.hello("t", "a").since == "s1"


def test_hello_names_what_the_application_took_and_not_what_waits() -> None:
    core = connected()
    core.receive(live(1, 3), 0.0)
    core.take()
    core.take()
    assert core.hello("t", "a") == p.Hello(token="t", incarnation="i1", since="s0", watermarks={CONV: 2}, agent="a")
    core.disconnected("gone", 0.0)
    core.welcomed(welcome())
    core.receive(live(3, 4), 0.0)
    assert seqs(core) == [3, 4]


def test_hello_names_nothing_of_a_conversation_whose_place_is_not_stored() -> None:
    core = Core(highest, outbox_messages_max=1, events_messages_max=9)
    core.welcomed(welcome())
    core.receive(live(1), 0.0)
    taken(core)
    assert core.hello("t", "a").watermarks is None
    unsaved = core.unsaved()
    assert unsaved is not None
    core.stored(unsaved)
    assert core.hello("t", "a").watermarks == {CONV: 1}


def test_own_marks_are_known_without_being_told() -> None:
    core = connected()
    core.receive(live(1, 3), 0.0)
    taken(core)
    assert core.marks(CONV).mine == Marks(3, 0)
    core.read(CONV, 2)
    core.due(0.0)
    assert core.receive(p.Ok(ref=1), 0.0) == [Grew(CONV)]
    assert core.marks(CONV) == ConversationMarks(mine=Marks(3, 2))


def test_another_history_forgets_positions_and_keeps_the_outbox() -> None:
    core = connected()
    queue_send(core, "one")
    core.receive(live(1, 9), 0.0)
    core.take()
    core.disconnected("gone", 0.0)
    core.welcomed(welcome(reset=True, incarnation="i2"))
    hello = core.hello("t", "a")
    assert (hello.since, hello.watermarks, hello.incarnation) == (None, None, "i2")
    core.receive(live(1, 2), 0.0)
    assert [type(event) for event in taken(core)] == [
        DisconnectedEvent,
        ResetEvent,
        ConnectedEvent,
        MessageEvent,
        MessageEvent,
    ]
    assert p.Send(id="one", to="bob", body="body of one", n=1) in core.due(0.0)


def test_refusals_for_good_are_answers_and_others_are_not() -> None:
    core = connected()
    queue_send(core, "one", to="nobody")
    core.due(0.0)
    retry = p.Error(code="overloaded", message="later", temporary=True, retry_after_ms=10, id="one")
    assert core.receive(retry, 0.0) == []
    core.due(1.0)
    effects = core.receive(p.Error(code="not_found", message="no such user", temporary=False, id="one"), 1.0)
    assert [type(e.outcome) for e in effects if isinstance(e, Answered)] == [NotFound]
    assert len(core.outbox) == 0
    unsaved = core.unsaved()
    assert unsaved is not None
    assert unsaved.answered == (1,)


def test_a_send_that_the_server_takes_for_out_of_order_asks_for_a_new_connection() -> None:
    core = connected()
    queue_send(core, "one")
    core.due(0.0)
    error = p.Error(code="out_of_order", message="something is missing", temporary=True, id="one")
    assert core.receive(error, 0.0) == [Leave("something is missing")]


def test_an_outbox_entry_that_fits_no_frame_of_this_server_fails_and_kills_no_connection() -> None:
    core = connected()
    core.outbox.add(core.outbox.make("big", "x" * 2_000, to="bob"))
    core.disconnected("gone", 0.0)
    small = p.Limits(frame_bytes_max=1024, body_bytes_max=100, window=1, initial_history=0)
    effects = core.welcomed(welcome(limits=small))
    assert [effect.id for effect in effects if isinstance(effect, Answered)] == ["big"]
    assert core.due(0.0) == []


def test_requests_of_the_application_are_answered_and_move_no_position() -> None:
    core = connected()
    ref = core.request(lambda ref: p.History(conv=CONV, before=9, limit=2, ref=ref))
    assert core.due(0.0) == [p.History(conv=CONV, before=9, limit=2, ref=ref)]
    page = live(7, 8, ref=ref)
    assert core.receive(page, 0.0) == [Replied(ref, page)]
    assert seqs(core) == []
    refused = core.receive(p.Error(code="forbidden", message="no", temporary=False, ref=99), 0.0)
    assert isinstance(refused[0], Replied)
    assert isinstance(refused[0].answer, Forbidden)


def test_goaway_leaves_after_a_random_part_of_its_time_and_comes_back_at_once() -> None:
    core = Core(lambda: 0.5, outbox_messages_max=1, events_messages_max=1)
    core.welcomed(welcome())
    core.receive(p.Goaway(reason="restart", reconnect_ms=10_000), 100.0)
    assert core.deadline_s() == 105.0
    assert not core.leaves(104.9)
    assert core.leaves(105.0)
    assert core.disconnected("goaway", 105.0) == 0.0
    assert core.disconnected("refused", 105.0) == 0.25


def test_a_server_that_closes_before_the_goaway_time_is_left_alone_until_then() -> None:
    core = connected()
    core.receive(p.Goaway(reason="restart", reconnect_ms=10_000), 100.0)
    assert core.disconnected("closed", 101.0) == 9.0


def test_the_backoff_begins_anew_after_catching_up() -> None:
    core = Core(highest, outbox_messages_max=1, events_messages_max=1)
    assert [core.disconnected("refused", 0.0) for _ in range(3)] == [0.5, 1.0, 2.0]
    core.welcomed(welcome())
    assert core.disconnected("kicked", 0.0) == 4.0
    core.welcomed(welcome())
    core.receive(p.CaughtUp(since="s"), 0.0)
    assert core.disconnected("gone", 0.0) == 0.5


def test_what_was_stored_is_where_the_next_run_begins() -> None:
    first = connected()
    first.receive(live(1, 3), 0.0)
    first.receive(p.Receipt(conv=CONV, user="bob", delivered=2, read=1), 0.0)
    first.read(CONV, 2)
    first.take()
    first.take()
    unsaved = first.unsaved()
    assert unsaved is not None
    second = Core(highest, outbox_messages_max=1, events_messages_max=9)
    for row in unsaved.conversations:
        second.load(row)
    assert second.hello("t", "a").watermarks == {CONV: 1}
    assert second.marks(CONV).peer == Marks(2, 1)
    second.welcomed(welcome())
    assert second.due(0.0) == [p.Read(conv=CONV, seq=2, ref=1)]
    second.receive(live(2, 3), 0.0)
    assert seqs(second) == [2, 3]


def whereabouts(user: str, state: Literal["online", "away", "offline"], last_seen: int | None = None) -> p.Whereabouts:
    return p.Whereabouts(user=user, state=state, last_seen=last_seen)


def test_watches_are_said_after_each_reconnect_in_frames_of_200() -> None:
    core = connected()
    names = [f"user{n}" for n in range(250)]
    assert core.hints.watch(names)
    assert core.due(0.0) == [p.Watch(users=tuple(names[:200]), ref=1), p.Watch(users=tuple(names[200:]), ref=2)]
    assert core.due(0.0) == []
    core.hints.unwatch(names[1:])
    assert [len(f.users) for f in core.due(0.0) if isinstance(f, p.Unwatch)] == [200, 49]
    core.disconnected("gone", 0.0)
    core.welcomed(welcome())
    assert core.due(0.0) == [p.Watch(users=("user0",), ref=5)]
    assert not core.hints.watch(f"other{n}" for n in range(1_000))


def test_presence_comes_once_a_change_and_is_forgotten_with_the_connection() -> None:
    core = connected()
    core.hints.watch(["bob", "carol"])
    core.due(0.0)
    core.receive(p.Presence(states=(whereabouts("bob", "online"), whereabouts("dave", "online")), ref=1), 0.0)
    core.receive(p.Presence(states=(whereabouts("bob", "online"),)), 0.0)
    core.receive(p.Presence(states=(whereabouts("carol", "offline", 7),)), 0.0)
    assert taken(core) == [PresenceEvent("bob", "online"), PresenceEvent("carol", "offline", 7)]
    assert core.hints.presence("bob") == PresenceEvent("bob", "online")
    core.disconnected("gone", 0.0)
    assert core.hints.presence("bob") is None


def test_who_is_left_out_of_the_answer_is_not_known_and_asked_for_again_after_the_first_message() -> None:
    core = connected()
    core.hints.watch(["bob"])
    core.due(0.0)
    core.receive(p.Presence(states=(), ref=1), 0.0)
    core.receive(live(1), 0.0)
    taken(core)
    assert p.Watch(users=("bob",), ref=2) in core.due(0.0)


def test_a_watch_that_is_refused_for_now_is_said_again_and_one_for_good_is_not() -> None:
    core = connected()
    core.hints.watch(["bob"])
    core.due(0.0)
    core.receive(p.Error(code="unavailable", message="", temporary=True, ref=1), 0.0)
    assert core.due(1.9) == []
    assert core.deadline_s() == 2.0
    assert core.due(2.0) == [p.Watch(users=("bob",), ref=2)]
    core.receive(p.Error(code="too_large", message="", temporary=False, ref=2), 2.0)
    assert core.due(100.0) == []


def test_a_status_is_said_now_and_after_each_reconnect() -> None:
    core = connected()
    core.hints.status(p.Status(state="away", inactive=True))
    assert core.due(0.0) == [p.Status(state="away", inactive=True)]
    assert core.due(0.0) == []
    core.disconnected("gone", 0.0)
    core.welcomed(welcome())
    assert core.due(0.0) == [p.Status(state="away", inactive=True)]


def test_typing_is_told_at_most_every_three_seconds_and_never_kept_for_later() -> None:
    core = connected()
    told = []
    for now_s in (0.0, 1.0, 2.9, 3.0, 4.0):
        core.hints.typing(CONV, on=True, now_s=now_s)
        told += [now_s for _ in core.due(now_s)]
    assert told == [0.0, 3.0]
    core.disconnected("gone", 5.0)
    core.hints.typing(CONV, on=True, now_s=9.0)
    core.welcomed(welcome())
    assert core.due(9.0) == []


def test_typing_ends_by_itself_after_six_seconds_with_a_message_and_with_the_connection() -> None:
    core = connected()
    typing = p.PeerTyping(conv=CONV, user="bob", on=True)
    core.receive(typing, 0.0)
    core.receive(typing, 3.0)
    assert taken(core) == [TypingEvent(CONV, "bob", on=True)]
    assert core.deadline_s() == 9.0
    assert not core.expired(8.9)
    assert core.expired(9.0)
    assert taken(core) == [TypingEvent(CONV, "bob", on=False)]
    core.receive(typing, 10.0)
    taken(core)
    core.receive(live(1), 11.0)
    assert TypingEvent(CONV, "bob", on=False) in taken(core)
    core.receive(typing, 12.0)
    taken(core)
    core.disconnected("gone", 13.0)
    assert TypingEvent(CONV, "bob", on=False) in taken(core)
    core.receive(p.PeerTyping(conv=CONV, user="bob", on=False), 14.0)
    assert taken(core) == []


def test_unread_is_computed_from_maxima() -> None:
    core = connected()
    core.receive(live(1, 3), 0.0)
    core.receive(live(1, 3), 0.0)  # nothing is counted twice
    assert (core.badge, core.unread(CONV).count) == (3, 3)
    core.receive(p.Receipt(conv=CONV, user="alice", delivered=3, read=2), 0.0)
    assert core.badge == 1
    queue_send(core, "id4")
    core.due(0.0)
    core.receive(p.Sent(id="id4", conv=CONV, seq=4, ts=0), 0.0)
    assert core.badge == 0
    core.receive(live(5), 0.0)
    core.receive(p.Messages(conv=CONV, messages=(p.Entry(seq=6, ts=6, gone="hidden"),)), 0.0)
    core.receive(live(7), 0.0)
    assert core.badge == 2
    row = p.ConversationRow(
        conv="alice:carol",
        peer="carol",
        head=40,
        delivered=40,
        read=30,
        peer_delivered=0,
        peer_read=0,
        unread=8,
        updated=1,
    )
    core.receive(p.ConversationList(conversations=(row,)), 0.0)
    assert core.badge == 10
    unsaved = core.unsaved()
    assert unsaved is not None
    second = Core(highest, outbox_messages_max=1, events_messages_max=9)
    for saved in unsaved.conversations:
        second.load(saved)
    assert second.badge == 10
    second.welcomed(welcome(reset=True, incarnation="i2"))
    assert second.badge == 0


def expired(first: int, last: int, *, ref: p.Ref | None = None) -> p.Messages:
    entry = p.Entry(seq=last, ts=last, gone="expired", first=first if first < last else None)
    return p.Messages(conv=CONV, messages=(entry, *live(last + 1, last + 2).messages), ref=ref)


def test_what_expired_is_one_event_and_closes_the_gap() -> None:
    core = connected()
    core.receive(live(1, 2), 0.0)
    core.receive(expired(3, 900), 0.0)
    events = [event for event in taken(core) if isinstance(event, MessageEvent | GoneEvent)]
    assert [(e.seq, getattr(e, "first", None)) for e in events] == [
        (1, None),
        (2, None),
        (900, 3),
        (901, None),
        (902, None),
    ]
    assert core.badge == 2, "what expired is not unread, nor what came before it"
    assert core.due(0.0) == [p.Ack(conv=CONV, seq=902)]


def test_a_place_that_begins_below_what_was_seen_is_taken_for_its_rest() -> None:
    core = connected()
    core.receive(live(1, 2), 0.0)
    core.receive(expired(1, 5), 0.0)
    assert [e.seq for e in taken(core) if isinstance(e, MessageEvent | GoneEvent)] == [1, 2, 5, 6, 7]


def test_a_place_above_a_gap_is_fetched() -> None:
    core = connected()
    core.receive(expired(3, 5), 0.0)
    (fetch,) = core.due(0.0)
    assert isinstance(fetch, p.History)
    assert fetch.after == 0
    core.receive(expired(1, 5, ref=fetch.ref), 0.0)
    assert [e.seq for e in taken(core) if isinstance(e, MessageEvent | GoneEvent)] == [5, 6, 7]


def test_a_log_may_begin_with_what_expired() -> None:
    core = Core(highest, outbox_messages_max=100, events_messages_max=100)
    core.welcomed(welcome())
    core.receive(expired(1, 70), 0.0)
    assert [e.seq for e in taken(core) if isinstance(e, MessageEvent | GoneEvent)] == [70, 71, 72]
