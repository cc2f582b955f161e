"""Password hashes: what matches, what costs the same, and how many may wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import cast

import pytest
from argon2 import PasswordHasher

from chatd.errors import Overloaded
from chatd.passwords import REST_S_MAX, Passwords


def quick(time_cost: int = 1, waiting_max: int = 4) -> Passwords:
    return Passwords(time_cost=time_cost, memory_kib=8, parallelism=1, waiting_max=waiting_max)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = quick()
    yield made
    made.close()


async def test_only_the_right_password_matches_its_hash(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert await passwords.verify("correct horse", stored)
    assert not await passwords.verify("correct horsf", stored)
    assert not await passwords.verify("", stored)
    assert stored != await passwords.hash("correct horse"), "every hash has its own salt"


async def test_composed_and_decomposed_text_are_one_password(passwords: Passwords) -> None:
    assert await passwords.verify("cafe\u0301 \U0001f600", await passwords.hash("caf\u00e9 \U0001f600"))


async def test_nobody_s_hash_and_a_damaged_one_match_nothing(passwords: Passwords) -> None:
    assert not await passwords.verify("anything", None)
    assert not await passwords.verify("anything", "not a hash")


async def test_after_a_check_that_failed_the_thread_rests_and_after_others_it_goes_on() -> None:
    clock, slept = [10.0], list[float]()
    passwords = Passwords(time_cost=1, memory_kib=8, now_s=lambda: clock[0], sleep=slept.append)
    stored = await passwords.hash("secret")
    real, took_s = passwords._hasher.verify, 0.07

    def slow(stored: str, password: bytes) -> bool:
        clock[0] += took_s
        return real(stored, password)

    passwords._hasher = cast(PasswordHasher, _With(passwords._hasher, slow))
    try:
        assert not await passwords.verify("wrong", stored)
        assert slept == []  # whoever failed has its answer
        assert await passwords.verify("secret", stored)
        assert slept == [pytest.approx(3 * 0.07)]
        clock[0] = 11.0
        assert await passwords.verify("secret", stored)
        await passwords.hash("another")
        assert len(slept) == 1
        took_s = 2.0
        assert not await passwords.verify("wrong", None)
        await passwords.hash("another")
        assert slept[1:] == [pytest.approx(REST_S_MAX)]
    finally:
        passwords.close()


async def test_an_unknown_user_costs_one_check_with_the_same_parameters(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    real = passwords._hasher.verify

    def spy(stored: str, password: bytes) -> bool:
        checked.append(stored)
        return real(stored, password)

    monkeypatch.setattr(passwords, "_hasher", _With(passwords._hasher, spy))
    known = await passwords.hash("secret")
    assert not await passwords.verify("wrong", known)
    assert not await passwords.verify("wrong", None)
    assert len(checked) == 2
    assert [h.split("$")[1:4] for h in checked] == [["argon2id", "v=19", "m=8,t=1,p=1"]] * 2
    assert [len(part) for part in checked[0].split("$")] == [len(part) for part in checked[1].split("$")]


class _With:
    """A hasher with another `verify`."""

    def __init__(self, hasher: object, verify: object) -> None:
        self._hasher = hasher
        self.verify = verify

    def __getattr__(self, name: str) -> object:
        return getattr(self._hasher, name)


async def test_a_hash_of_other_parameters_is_outdated(passwords: Passwords) -> None:
    stored = await passwords.hash("secret")
    stronger = quick(time_cost=2)
    assert not passwords.outdated(stored)
    assert stronger.outdated(stored)
    assert await stronger.verify("secret", stored), "it still opens"
    stronger.close()


async def test_one_runs_a_few_wait_and_one_more_is_told_when_to_come_back() -> None:
    passwords = quick(waiting_max=3)
    gate, running = threading.Event(), threading.Semaphore(0)

    def held() -> int:
        running.release()
        assert gate.wait(30)
        return threading.get_ident()

    jobs = [asyncio.ensure_future(passwords._run(held)) for _ in range(4)]
    assert await asyncio.to_thread(running.acquire, timeout=30)
    with pytest.raises(Overloaded) as refused:
        await passwords.hash("one too many")
    assert refused.value.retry_after_ms == 1_000
    assert not running.acquire(blocking=False), "the second waits until the first is done"
    gate.set()
    assert len(set(await asyncio.gather(*jobs))) == 1
    assert await passwords.verify("x", None) is False, "there is room again"
    passwords.close()


async def test_a_caller_that_gives_up_keeps_its_place_until_its_work_is_done() -> None:
    passwords = quick(waiting_max=0)
    gate, running = threading.Event(), threading.Semaphore(0)

    def held() -> None:
        running.release()
        assert gate.wait(30)

    job = asyncio.ensure_future(passwords._run(held))
    assert await asyncio.to_thread(running.acquire, timeout=30)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    with pytest.raises(Overloaded):
        await passwords.hash("still full")
    gate.set()
    passwords._executor.shutdown(wait=True)
    assert passwords._places.acquire(blocking=False)
