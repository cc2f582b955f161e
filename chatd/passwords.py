"""argon2id, off the event loop and one at a time: a burst of logins costs its own latency and nobody else's.

On a machine of two busy cores two at a time took most messages from who chats meanwhile. One at a time still is a core
that computes for whoever guesses; so after a check that failed the thread rests for longer than that took, before the
next one (``python -m bench.guesses``).
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from chatd.errors import Overloaded

THREADS = 1
WAITING_MAX = 64
"""Hashes and checks that may wait for a thread; beyond, `Overloaded`."""
RESTS = 3
"""So many times as long as a check that failed took the thread rests: guesses have a quarter of a core."""
REST_S_MAX = 0.25

_T = TypeVar("_T")


class Passwords:
    """Makes and checks password hashes.

    ``time_cost``, ``memory_kib``, ``parallelism``: argon2id's parameters; the defaults are those of the OWASP Password
    Storage Cheat Sheet (19 MiB, 2 passes, 1 lane), some 20 ms on a small machine. `close` ends the thread. ``now_s`` is
    monotonic, and ``sleep`` sleeps in the thread.
    """

    def __init__(
        self,
        *,
        time_cost: int = 2,
        memory_kib: int = 19_456,
        parallelism: int = 1,
        waiting_max: int = WAITING_MAX,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism, type=Type.ID
        )
        self._nobody = _unmatched(time_cost, memory_kib, parallelism)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="chatd-password")
        self._places = threading.BoundedSemaphore(THREADS + waiting_max)
        self._now_s = now_s
        self._sleep = sleep
        self._rests_until_s = 0.0  # of the thread, like all that follows a check

    async def hash(self, password: str) -> str:
        """The argon2id string of a password. Raises: Overloaded."""
        return await self._run(lambda: self._hasher.hash(_prepared(password)))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is the one of this hash. None (no such user, no password) takes the same time.

        Raises: Overloaded.
        """
        return await self._run(lambda: self._matches(password_hash or self._nobody, password))

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Drop what waits and let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _matches(self, password_hash: str, password: str) -> bool:
        began_s = self._now_s()
        try:
            return self._hasher.verify(password_hash, _prepared(password))
        except (VerificationError, InvalidHashError):
            now_s = self._now_s()
            self._rests_until_s = now_s + min(RESTS * (now_s - began_s), REST_S_MAX)
            return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        if not self._places.acquire(blocking=False):
            raise Overloaded("too many logins at once", retry_after_ms=1_000)
        job = self._executor.submit(self._rested, work)
        # A caller that was cancelled leaves its thread running: the place is free when the work is done, not before.
        job.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(job)

    def _rested(self, work: Callable[[], _T]) -> _T:
        """Whoever failed has the answer at once; who comes next waits, whoever that is."""
        rest_s = self._rests_until_s - self._now_s()
        if rest_s > 0:
            self._sleep(rest_s)
        return work()


def _prepared(password: str) -> bytes:
    # One password typed on two systems may come composed or decomposed: RFC 8265 (OpaqueString) says NFC.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _unmatched(time_cost: int, memory_kib: int, parallelism: int) -> str:
    """A well-formed hash of these parameters that no password has: checking it costs what a real check costs."""
    salt, digest = (base64.b64encode(os.urandom(n)).rstrip(b"=").decode() for n in (16, 32))
    return f"$argon2id$v=19$m={memory_kib},t={time_cost},p={parallelism}${salt}${digest}"
