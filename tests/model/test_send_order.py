"""However the store refuses and a client repeats, what is stored of one connection is in the order of its sends."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from chatd import protocol
from chatd.session import Answer, Event, Session
from chatd.settings import LimitSettings

CONV = "alice:bob"
STEPS = st.lists(
    st.sampled_from(["new"] * 4 + ["commit"] * 3 + ["refuse"] * 2 + ["repeat_first"] * 2 + ["repeat_last", "read"]),
    min_size=20,
    max_size=80,
)


def _id(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


class Talk:
    """A session, the queue before a store, and a client that repeats what it read to be refused, in order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.session = self.connect()
        self.sent = 0
        self.queue: list[str] = []
        self.stored: list[str] = []
        self.answers: deque[tuple[str, bool]] = deque()  # under way to the client: id, whether it was stored
        self.outbox: list[str] = []
        self.refused: set[str] = set()  # as far as the client knows

    def connect(self) -> Session:
        session = Session(LimitSettings(), hello_s=5.0, now_s=self.now_s)
        session.receive(b'{"type":"hello","token":"t"}', self.now_s)
        session.accepted("alice", lambda _: 0.0, None)
        session.step(Event.CAUGHT_UP)
        return session

    def send(self, message_id: str) -> None:
        self.now_s += 1.0
        data = json.encode({"type": "send", "id": message_id, "conv": CONV, "body": "x"})
        effect = self.session.receive(data, self.now_s)
        if isinstance(effect, protocol.Send):
            self.queue.append(message_id)
        else:
            assert isinstance(effect, Answer)
            self.answers.append((message_id, False))

    def new(self) -> None:
        """Nothing new is sent after what the client knows to be refused."""
        if not self.refused:
            self.sent += 1
            self.outbox.append(_id(self.sent))
            self.send(_id(self.sent))

    def commit(self) -> None:
        for message_id in self.queue:
            if message_id not in self.stored:
                self.stored.append(message_id)
            self.session.settled(CONV, message_id)
            self.answers.append((message_id, True))
        self.queue.clear()

    def refuse(self) -> None:
        for message_id in self.queue:
            self.session.hold(CONV, message_id)
            self.answers.append((message_id, False))
        self.queue.clear()

    def read(self) -> None:
        while self.answers:
            message_id, stored = self.answers.popleft()
            if message_id in self.outbox:
                if stored:
                    self.outbox.remove(message_id)
                    self.refused.discard(message_id)
                else:
                    self.refused.add(message_id)
        if self.refused and not self.queue:
            self.refused.clear()
            for message_id in list(self.outbox):
                self.send(message_id)

    def repeat_first(self) -> None:
        if self.outbox:
            self.send(self.outbox[0])

    def repeat_last(self) -> None:
        if self.outbox:
            self.send(self.outbox[-1])


@settings(max_examples=300)
@given(STEPS)
def test_what_is_stored_is_in_the_order_of_its_sends(steps: list[str]) -> None:
    talk = Talk()
    for step in steps:
        getattr(talk, step)()
        assert talk.stored == sorted(talk.stored)
    talk.commit()
    talk.read()
    talk.session = talk.connect()  # something answered may have been repeated and refused: a new connection forgets it
    for message_id in list(talk.outbox):
        talk.send(message_id)
    talk.commit()
    assert talk.stored == [_id(number) for number in range(1, talk.sent + 1)]
