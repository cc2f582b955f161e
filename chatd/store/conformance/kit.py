"""What a check is, what it needs of a backend, and the few words that checks are written in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

from chatd.model import Advance, Appended, Draft, Grown, Message
from chatd.store.base import Store

Fault = Literal["gone", "unknown"]
T = TypeVar("T")


class Skipped(Exception):
    """The check does not apply to this backend; the message says why."""


class Backend(Protocol):
    """Makes the stores that a check works on, and lets go of them when the check is over."""

    async def fresh(self) -> Store:
        """A new store: open, empty, with nothing in common with any other."""

    async def reopen(self, store: Store) -> Store | None:
        """Close ``store`` if it is open, and open the same data again. None: nothing survives a close."""

    async def break_next(self, store: Store, fault: Fault) -> bool:
        """Make the next commit of ``store`` fail, and only that one. False: this backend cannot.

        ``gone``: the engine cannot be reached; nothing is stored. ``unknown``: the answer is lost, and whether the
        commit was stored is for `find` to tell.
        """


Check: TypeAlias = Callable[[Backend], Awaitable[None]]

CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


def expect(holds: bool, what: str) -> None:
    """Fail with ``what``, the broken promise, unless it holds. (No assert: it must work under ``python -O``.)"""
    if not holds:
        raise AssertionError(what)


def equal(got: object, want: object, what: str) -> None:
    """Fail with both values unless they are equal."""
    if got != want:
        raise AssertionError(f"{what}: got {got!r:.300}, want {want!r:.300}")


def present(value: T | None, what: str) -> T:
    """The value; fails when there is none."""
    if value is None:
        raise AssertionError(f"{what}: got None")
    return value


def uuid(number: int) -> str:
    """A message id, one for each number."""
    return f"00000000-0000-4000-8000-{number:012x}"


def draft(
    number: int,
    *,
    conv: str = "alice:bob",
    sender: str = "alice",
    body: str | None = None,
    ts_ms: int = 1_000,
) -> Draft:
    """The draft with this number, from alice to bob unless told."""
    return Draft(conv, sender, uuid(number), f"body {number}" if body is None else body, ts_ms)


async def say(store: Store, *drafts: Draft) -> list[Message]:
    """Commit drafts that are all new, and give the messages."""
    return [one.message for one in stored((await store.commit(drafts, [])).appended)]


async def fill(store: Store, count: int, *, first: int = 1, conv: str = "alice:bob", sender: str = "alice") -> None:
    """Commit ``count`` messages with the numbers from ``first`` on."""
    await say(store, *(draft(n, conv=conv, sender=sender) for n in range(first, first + count)))


async def advance(
    store: Store,
    delivered: int,
    read: int = 0,
    *,
    conv: str = "alice:bob",
    user: str = "bob",
    device: str = "phone",
) -> Grown:
    """Raise the marks of one device, of bob's phone unless told."""
    done = await store.commit([], [Advance(conv, user, device, delivered, read)])
    equal(len(done.grown), 1, "one (conv, user) among the advances gives one entry in grown")
    return done.grown[0]


def stored(results: Sequence[object]) -> list[Appended]:
    """The results, all of which must be messages."""
    good = [one for one in results if isinstance(one, Appended)]
    equal(len(good), len(results), f"every draft is stored ({results!r:.200})")
    return good


def seqs(messages: Sequence[Message]) -> list[int]:
    """The seqs, in order."""
    return [message.seq for message in messages]


def upto(first: int, last: int) -> list[int]:
    """first … last, both with."""
    return list(range(first, last + 1))
