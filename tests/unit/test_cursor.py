"""What a device was sent and holds: literal steps, and any run of commits, losses and acks against a small model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatd import cursor as module
from chatd.cursor import UNKNOWN, Cursor


def test_the_next_message_of_a_caught_up_log_goes_out_at_once() -> None:
    cursor = Cursor(2)
    cursor.start("a", 5, 5)
    assert cursor.offer("a", 6)
    assert not cursor.offer("a", 6)  # a repeated hint
    assert not cursor.offer("a", 3)
    assert not cursor.behind
    assert (cursor.in_flight, cursor.room) == (1, 1)


def test_a_gap_is_read_from_the_store() -> None:
    cursor = Cursor(10)
    cursor.start("a", 0)
    assert not cursor.offer("a", 3)
    assert cursor.next() == ("a", 0)
    assert not cursor.offer("a", 4)  # not past the backlog
    cursor.took("a", 2)
    assert cursor.next() == ("a", 2)
    cursor.took("a", 4)
    assert cursor.next() is None
    assert not cursor.behind
    assert cursor.offer("a", 5)


def test_a_log_that_cannot_be_read_lets_the_others_go_first() -> None:
    cursor = Cursor(10)
    cursor.postpone()  # nothing is behind
    for conv in ("a", "b"):
        cursor.start(conv, 0)
        assert not cursor.offer(conv, 2)
    assert cursor.next() == ("a", 0)
    cursor.postpone()
    assert cursor.next() == ("b", 0)
    cursor.took("b", 2)
    assert cursor.next() == ("a", 0)
    cursor.postpone()  # it is the only one
    assert cursor.next() == ("a", 0)


def test_a_full_window_waits_for_an_ack() -> None:
    cursor = Cursor(2)
    cursor.start("a", 0)
    assert cursor.offer("a", 1)
    assert cursor.offer("a", 2)
    assert not cursor.offer("a", 3)
    assert cursor.behind
    assert cursor.next() is None
    assert cursor.ack("a", 1)
    assert cursor.room == 1
    assert cursor.next() == ("a", 2)
    cursor.took("a", 3)
    assert not cursor.ack("a", 99)  # more than was sent counts as all of it; nothing is behind
    assert cursor.in_flight == 0
    assert not cursor.ack("a", 1)  # an ack never goes back
    assert not cursor.ack("b", 1)
    assert cursor.in_flight == 0


def test_an_unknown_log_asks_the_store_for_its_place() -> None:
    cursor = Cursor(10)
    assert not cursor.offer("a", 7)
    assert not cursor.knows("a")
    assert cursor.next() == ("a", UNKNOWN)
    assert cursor.ack("a", 7)  # nothing was sent, so nothing is acknowledged: the place is still unknown
    assert not cursor.knows("a")
    cursor.start("a", 4)
    assert cursor.next() == ("a", 4)
    cursor.took("a", 7)
    assert not cursor.behind
    cursor.start("a", 2, 2)  # a log that moved stays
    assert cursor.offer("a", 8)


def test_an_unknown_log_whose_place_is_its_end() -> None:
    cursor = Cursor(10)
    cursor.offer("a", 7)
    cursor.start("a", 7)
    assert not cursor.behind
    assert cursor.offer("a", 8)


def test_own_messages_are_delivered_by_their_answer() -> None:
    cursor = Cursor(2)
    assert cursor.own("a", 1)  # the first of a new log
    assert cursor.own("a", 2)
    assert cursor.in_flight == 0
    assert cursor.offer("a", 3)
    assert cursor.own("a", 4)
    assert cursor.own("a", 5)
    assert cursor.room == 0
    cursor.ack("a", 3)  # all that came from others is held, and what follows is its own
    assert cursor.in_flight == 0
    assert not cursor.own("a", 7)  # 6 is missing
    assert cursor.next() == ("a", 5)
    assert not cursor.own("b", 3)  # a log it does not know
    cursor.took("a", 7)
    cursor.ack("a", 7)
    assert cursor.next() == ("b", UNKNOWN)


def test_own_messages_alone_never_close_the_window() -> None:
    cursor = Cursor(2)
    cursor.start("a", 0)
    assert cursor.offer("a", 1)
    for seq in range(2, 500):
        assert cursor.own("a", seq)
    cursor.ack("a", 1)
    assert cursor.room == 2


def test_congestion_closes_the_window() -> None:
    cursor = Cursor(2)
    cursor.start("a", 0)
    cursor.congested = True
    assert not cursor.offer("a", 1)
    assert cursor.next() is None
    cursor.congested = False
    assert cursor.next() == ("a", 0)


def test_no_log_starves_the_others() -> None:
    cursor = Cursor(100)
    cursor.start("a", 0, 10)
    cursor.start("b", 0, 10)
    cursor.took("a", 5)
    assert cursor.next() == ("b", 0)
    cursor.took("b", 5)
    assert cursor.next() == ("a", 5)


def test_a_log_that_turns_out_shorter_is_not_read_for_ever() -> None:
    cursor = Cursor(10)
    cursor.start("a", 3, 9)
    cursor.took("a", 3)
    assert cursor.next() is None


def test_trim_forgets_what_the_device_holds_and_nothing_else() -> None:
    cursor = Cursor(1_000_000)
    for i in range(module.LOGS_MAX + 2):
        cursor.start(str(i), 0)
        assert cursor.offer(str(i), 1)
    assert not cursor.trim()
    cursor.ack("5", 1)
    cursor.ack("6", 1)
    assert cursor.trim()
    assert cursor.logs == module.LOGS_MAX
    assert not cursor.knows("5")
    assert cursor.knows("0")


class Model:
    """A store and one device, with a cursor between: hints may be lost, repeated, late; own sends are in between.

    ``logs``: who sent each message. ``got``: what the device was sent, in order. ``acked``: what it said it holds.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.cursor = Cursor(window)
        self.logs: dict[str, list[bool]] = {"a": [], "b": [], "c": []}
        self.got: dict[str, list[int]] = {conv: [] for conv in self.logs}
        self.acked = dict.fromkeys(self.logs, 0)

    def commit(self, conv: str, own: bool, hints: int) -> None:
        self.logs[conv].append(own)
        seq = len(self.logs[conv])
        if own:
            if self.cursor.own(conv, seq):
                self.got[conv].append(seq)
            return
        for _ in range(hints):
            if self.cursor.offer(conv, seq):
                self.got[conv].append(seq)

    def read(self, size: int) -> None:
        step = self.cursor.next()
        if step is None:
            return
        conv, after = step
        if after == UNKNOWN:
            self.cursor.start(conv, self.acked[conv])
            return
        page = list(range(after + 1, min(len(self.logs[conv]), after + min(size, self.cursor.room)) + 1))
        self.got[conv] += page
        self.cursor.took(conv, page[-1] if page else after)

    def ack(self, conv: str, back: int) -> None:
        seq = max(0, len(self.got[conv]) - back)
        self.acked[conv] = max(self.acked[conv], seq)
        self.cursor.ack(conv, seq)

    def check(self) -> None:
        unacked_of_others = 0
        for conv, got in self.got.items():
            assert got == list(range(1, len(got) + 1))
            unacked_of_others += sum(not self.logs[conv][seq - 1] for seq in got[self.acked[conv] :])
        assert unacked_of_others <= self.window
        assert 0 <= unacked_of_others <= self.cursor.in_flight


convs = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("commit"), convs, st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("read"), st.integers(1, 4)),
    st.tuples(st.just("ack"), convs, st.integers(0, 3)),
    st.tuples(st.just("congested"), st.booleans()),
)


@given(st.integers(1, 5), st.lists(steps, max_size=120))
def test_any_run_gives_the_device_every_message_once_in_order(window: int, run: list[tuple[object, ...]]) -> None:
    model = Model(window)
    for name, *arguments in run:
        if name == "congested":
            model.cursor.congested = bool(arguments[0])
        else:
            getattr(model, str(name))(*arguments)
        model.check()
    # the network heals: the next hint arrives, the device reads and acknowledges; then nothing may be missing
    model.cursor.congested = False
    for conv in model.logs:
        model.commit(conv, own=False, hints=1)
    for _ in range(2 * sum(map(len, model.logs.values())) + 10):
        model.read(4)
        for conv in model.logs:
            model.ack(conv, 0)
        model.check()
    assert {conv: len(got) for conv, got in model.got.items()} == {c: len(log) for c, log in model.logs.items()}
    assert model.cursor.in_flight == 0
    assert not model.cursor.behind
