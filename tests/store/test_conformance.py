"""Every store keeps every promise of ``chatd.store.base``, and the suite that says so finds stores that do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from broken_stores import BROKEN, IdReuseRaises, LastMarkWins
from store_backends import Deaf, FaultyMemoryStore, MemoryBackend, sqlite_backend

from chatd.errors import Unavailable
from chatd.store.base import AccountStore, MessageStore, PresenceStore, PushStore, Store
from chatd.store.conformance import CHECKS, Backend, Factory, Fault, Result, run, run_check
from chatd.store.memory import MemoryStore

CONTRACTS = (MessageStore, AccountStore, PresenceStore, PushStore)

# A local engine answers or dies with its process: there is nobody who could lose an answer.
SKIPPED_ON_SQLITE = {
    "an_unknown_outcome_can_be_found_out": "this backend cannot make a commit end in 'unknown'",
}


def factory_of(backend: Backend) -> Factory:
    @asynccontextmanager
    async def factory() -> AsyncIterator[Backend]:
        yield backend

    return factory


@pytest.mark.parametrize("name", CHECKS)
async def test_memory(name: str) -> None:
    assert await run_check(name, factory_of(MemoryBackend())) == Result(name)


@pytest.mark.parametrize("name", CHECKS)
async def test_sqlite(name: str, tmp_path: Path) -> None:
    result = await run_check(name, lambda: sqlite_backend(tmp_path))
    assert result == Result(name, skipped=SKIPPED_ON_SQLITE.get(name))


async def test_an_unknown_outcome_that_was_not_stored() -> None:
    name = "an_unknown_outcome_can_be_found_out"
    assert await run_check(name, factory_of(MemoryBackend(Deaf))) == Result(name)


@pytest.mark.parametrize(("kind", "check"), BROKEN)
async def test_a_broken_store_is_found(kind: type[FaultyMemoryStore], check: str) -> None:
    result = await run_check(check, factory_of(MemoryBackend(kind)))
    assert result.error is not None


def test_every_check_finds_a_broken_store() -> None:
    assert {check for _, check in BROKEN} == set(CHECKS)


# --- the suite as a product ------------------------------------------------------------------------------


async def test_run_says_what_is_broken_and_goes_on() -> None:
    results = await run(factory_of(MemoryBackend(LastMarkWins)))
    assert [one.name for one in results] == list(CHECKS)
    errors = {one.name: one.error for one in results if one.error is not None}
    assert "advance to delivered=2 read=0" in errors["marks_only_grow"]
    assert "seqs_follow_the_order_of_the_drafts" not in errors


async def test_run_reports_an_error_that_the_store_raised() -> None:
    results = await run(factory_of(MemoryBackend(IdReuseRaises)))
    errors = {one.name: one.error for one in results if one.error is not None}
    assert errors["counts_are_totals"].startswith("IdReuse: ")


class Forgetful(MemoryBackend):
    """Nothing survives a close, and no fault can be made."""

    async def reopen(self, store: Store) -> Store | None:
        return None

    async def break_next(self, store: Store, fault: Fault) -> bool:
        return False


async def test_what_a_backend_does_not_have_is_skipped_with_the_reason() -> None:
    results = await run(factory_of(Forgetful()))
    assert [one for one in results if one.error is not None] == []
    skipped = {one.name: one.skipped for one in results if one.skipped is not None}
    assert skipped["logs_survive_a_reopen"] == "nothing of this backend survives a close"
    assert skipped["gone_stores_nothing"] == "this backend cannot make a commit end in 'gone'"
    assert len(skipped) == 12
    assert Result("counts_are_totals") in results


async def test_every_method_of_the_contract_is_tried_after_close() -> None:
    called: set[str] = set()

    class Watched(FaultyMemoryStore):
        def __getattribute__(self, name: str) -> object:
            called.add(name)
            return super().__getattribute__(name)

    await CHECKS["a_closed_store_is_unavailable"](MemoryBackend(Watched))
    contract = {n for kind in CONTRACTS for n in vars(kind) if not n.startswith("_")}
    assert contract - {"durability", "incarnation"} <= called


async def test_unavailable_is_a_refusal_that_may_be_repeated() -> None:
    store = MemoryStore()
    with pytest.raises(Unavailable) as caught:
        await store.probe()
    assert caught.value.temporary
