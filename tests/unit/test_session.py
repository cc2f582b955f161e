"""One device's protocol state, with literal times: what may come when, in what order, how fast."""

from __future__ import annotations

from itertools import product

import pytest
from msgspec import json
from msgspec.structs import replace

from chatd import protocol
from chatd.limits import TokenBucket
from chatd.session import NEXT, Answer, Close, Event, IllegalTransition, Session, State
from chatd.settings import LimitSettings

LIMITS = LimitSettings(
    frames_per_s=2.0, frames_burst=10, bytes_per_s=1_000.0, bytes_burst=10_000, refusals_max=3, sends_burst=5
)
PAIRS = list(product(State, Event))
HELLO = b'{"type":"hello","token":"t"}'


def uuid(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


def send(number: int, *, n: int | None = None, to: str = "bob", ref: int | None = None) -> bytes:
    return json.encode({"type": "send", "id": uuid(number), "to": to, "body": "x", "n": n, "ref": ref})


def session(limits: LimitSettings = LIMITS, *, sends: TokenBucket | None = None, live: bool = True) -> Session:
    one = Session(limits, hello_s=5.0, now_s=100.0)
    if live:
        one.receive(HELLO, 100.0)
        one.accepted("alice", (sends or TokenBucket(1e6, 1_000_000)).take, None)
        one.step(Event.CAUGHT_UP)
    return one


def refusal(result: object) -> protocol.Error:
    assert isinstance(result, Answer)
    assert isinstance(result.frame, protocol.Error)
    return result.frame


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_pair_moves_as_the_table_says_and_an_absent_one_is_an_error(state: State, event: Event) -> None:
    one = session(live=False)
    one.state = state
    if (state, event) in NEXT:
        one.step(event)
        assert one.state is NEXT[state, event]
    else:
        with pytest.raises(IllegalTransition):
            one.step(event)
        assert one.state is state


def test_the_table_is_this_one() -> None:
    new, auth, catching, live, closed = State
    assert {
        (new, Event.HELLO): auth,
        (auth, Event.ACCEPTED): catching,
        (catching, Event.CAUGHT_UP): live,
        **{(state, Event.CLOSE): closed for state in (new, auth, catching, live, closed)},
    } == NEXT


def test_a_hello_comes_first_and_once() -> None:
    one = session(live=False)
    assert isinstance(one.receive(HELLO, 100.0), protocol.Hello)
    assert one.state is State.AUTHENTICATING
    again = one.receive(HELLO, 100.0)
    assert isinstance(again, Close)
    assert (again.code, again.reason) == (4400, "a second hello")


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"ping"}',
        send(1),
        b'{"type":"nonsense"}',
        b'{"type":"hello"}',
        b'{"type":"ack","conv":"alice:bob","seq":0}',
    ],
)
def test_anything_but_a_good_hello_before_the_hello_ends_it(data: bytes) -> None:
    close = session(live=False).receive(data, 100.0)
    assert isinstance(close, Close)
    assert close.code == 4400


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"null", b'"x"', b"{", b"{} {}", b"\xef\xbb\xbf{}", b"[" * 60_000])
def test_what_is_no_json_object_ends_it(data: bytes) -> None:
    close = session().receive(data, 100.0)
    assert isinstance(close, Close)
    assert close.code == 4400


def test_a_wrong_frame_is_answered_and_the_session_lives() -> None:
    one = session()
    assert refusal(one.receive(b'{"type":"dance","ref":7}', 100.0)).code == "unsupported"
    error = refusal(one.receive(b'{"type":"ack","conv":"alice:bob","seq":0,"ref":8}', 100.0))
    assert (error.code, error.ref, error.conv) == ("bad_frame", 8, "alice:bob")
    assert isinstance(one.receive(b'{"type":"ping"}', 100.0), protocol.Ping)


def test_numbers_of_sends_are_checked() -> None:
    one = session()
    assert isinstance(one.receive(send(1, n=1), 100.0), protocol.Send)
    error = refusal(one.receive(send(3, n=3, ref=9), 100.0))
    assert (error.code, error.temporary, error.id, error.ref) == ("out_of_order", True, uuid(3), 9)
    assert error.conv == "alice:bob"
    assert isinstance(one.receive(send(2, n=2), 100.0), protocol.Send)
    assert isinstance(one.receive(send(3, n=3), 100.0), protocol.Send)
    assert refusal(one.receive(send(3, n=3), 100.0)).code == "out_of_order"
    assert isinstance(one.receive(send(4), 100.0), protocol.Send)  # n is optional
    for undecodable in (
        send(4, n=4).replace(uuid(4).encode(), b"4"),
        send(4, n=4).replace(b'"to"', b'"x":"\\ud800","to"'),
    ):
        assert refusal(one.receive(undecodable, 100.0)).code == "bad_frame"
    assert isinstance(one.receive(send(4, n=4), 100.0), protocol.Send)


def test_after_a_refusal_later_sends_of_that_conversation_wait_for_it() -> None:
    one = session()
    one.receive(send(1), 100.0)
    one.hold("alice:bob", uuid(1))
    one.hold("alice:bob", uuid(2))  # refused with it: the first one must come first
    assert refusal(one.receive(send(2), 100.0)).code == "out_of_order"
    assert refusal(one.receive(send(3), 100.0)).code == "out_of_order"
    assert isinstance(one.receive(send(4, to="carol"), 100.0), protocol.Send)
    for n in (1, 2, 3):
        assert isinstance(one.receive(send(n), 100.0), protocol.Send)
    for n in (1, 2, 3):
        one.settled("alice:bob", uuid(n))
    assert isinstance(one.receive(send(5), 100.0), protocol.Send)


def test_a_refused_send_that_is_repeated_lets_nothing_new_past_what_was_refused_after_it() -> None:
    one = session()
    one.hold("alice:bob", uuid(1))
    assert refusal(one.receive(send(2), 100.0)).code == "out_of_order"
    assert isinstance(one.receive(send(1), 100.0), protocol.Send)  # repeated before its refusal was read
    one.settled("alice:bob", uuid(1))
    assert refusal(one.receive(send(3), 100.0)).code == "out_of_order"  # it was sent after 2
    assert isinstance(one.receive(send(2), 100.0), protocol.Send)
    assert isinstance(one.receive(send(2), 100.0), protocol.Send)  # twice: it is under way
    one.settled("alice:bob", uuid(2))
    assert isinstance(one.receive(send(3), 100.0), protocol.Send)


def test_what_is_refused_twice_keeps_its_place() -> None:
    one = session()
    one.hold("alice:bob", uuid(1))
    one.hold("alice:bob", uuid(2))
    assert isinstance(one.receive(send(1), 100.0), protocol.Send)
    one.hold("alice:bob", uuid(1))
    assert refusal(one.receive(send(2), 100.0)).code == "out_of_order"
    assert isinstance(one.receive(send(1), 100.0), protocol.Send)
    assert isinstance(one.receive(send(2), 100.0), protocol.Send)
    assert isinstance(one.receive(send(3), 100.0), protocol.Send)  # all that was refused is under way before it


def test_too_much_that_waits_for_a_refused_send_ends_the_connection() -> None:
    one = session(replace(LIMITS, frames_burst=2_000, bytes_burst=10_000_000))
    one.hold("alice:bob", uuid(0))
    for n in range(1, 999):
        assert refusal(one.receive(send(n), 100.0)).code == "out_of_order"
    close = one.receive(send(999), 100.0)
    assert isinstance(close, Close)
    assert (close.code, close.reason) == (4429, "too many refused messages wait")


def test_the_rate_of_frames() -> None:
    one = session()  # the hello took one of ten
    for _ in range(9):
        assert isinstance(one.receive(b'{"type":"ping"}', 100.0), protocol.Ping)
    error = refusal(one.receive(b'{"type":"ping","ref":"a"}', 100.0))
    assert (error.code, error.temporary, error.ref, error.retry_after_ms) == ("rate_limited", True, "a", 501)
    assert isinstance(one.receive(b'{"type":"ping"}', 100.501), protocol.Ping)


def test_the_rate_of_bytes() -> None:
    one = session(replace(LIMITS, frames_burst=1_000))
    big = b'{"type":"ping","x":"' + b"y" * 4_978 + b'"}'
    assert len(big) == 5_000
    assert isinstance(one.receive(big, 100.0), protocol.Ping)
    error = refusal(one.receive(big, 100.0))
    assert (error.code, error.retry_after_ms) == ("rate_limited", 29)  # the hello's 28 bytes are missing, at 1,000/s
    assert isinstance(one.receive(big, 100.029), protocol.Ping)


def test_the_rate_of_sends_holds_the_refused_one() -> None:
    one = session(replace(LIMITS, frames_burst=1_000), sends=TokenBucket(4.0, 2))
    assert isinstance(one.receive(send(1), 100.0), protocol.Send)
    assert isinstance(one.receive(send(2), 100.0), protocol.Send)
    error = refusal(one.receive(send(3), 100.0))
    assert (error.code, error.retry_after_ms, error.id) == ("rate_limited", 251, uuid(3))
    assert refusal(one.receive(send(4), 100.251)).code == "out_of_order"
    assert isinstance(one.receive(send(3), 100.251), protocol.Send)
    assert refusal(one.receive(send(4), 100.251)).code == "rate_limited"


def test_who_does_not_slow_down_is_closed_and_one_good_frame_forgives() -> None:
    limits = replace(LIMITS, frames_burst=1, frames_per_s=1.0)
    one = session(limits)
    for _ in range(3):
        assert refusal(one.receive(b'{"type":"ping"}', 100.0)).code == "rate_limited"
    assert isinstance(one.receive(b'{"type":"ping"}', 101.0), protocol.Ping)
    for _ in range(3):
        assert refusal(one.receive(b'{"type":"dance"}', 101.0)).code == "unsupported"
    close = one.receive(b'{"type":"ping"}', 101.0)
    assert isinstance(close, Close)
    assert (close.code, close.reason) == (4429, "too fast")
    assert isinstance(close.frame, protocol.Error)
    assert close.frame.code == "rate_limited"


def test_deadlines_of_hello_and_token() -> None:
    one = session(live=False)
    assert one.deadline_s == 105.0
    assert one.expired().code == 4408
    one.receive(HELLO, 100.0)
    assert one.expired().code == 4408
    one.accepted("alice", TokenBucket(1.0, 1).take, 900.0)
    assert one.deadline_s == 900.0
    assert one.expired().code == 4401
    one.renewed(None)
    assert one.deadline_s is None
