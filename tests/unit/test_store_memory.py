"""What is the memory store's own: the contract itself is held by ``tests/store/test_conformance.py``."""

from __future__ import annotations

import pytest

from chatd.model import Draft, conv_of
from chatd.store.base import Store
from chatd.store.memory import MemoryStore


def draft(sender: str = "alice", conv: str = "alice:bob", number: int = 1) -> Draft:
    return Draft(conv, sender, f"00000000-0000-4000-8000-{number:012x}", "hi", 1_000)


async def test_it_is_a_store_that_promises_no_durability() -> None:
    store: Store = MemoryStore()
    assert store.durability == "memory"


async def test_the_incarnation_is_given_or_random() -> None:
    assert MemoryStore(incarnation="one").incarnation == "one"
    assert MemoryStore().incarnation != MemoryStore().incarnation


async def test_the_history_lives_as_long_as_the_object() -> None:
    store = MemoryStore()
    await store.open()
    await store.commit([draft()], [])
    await store.close()
    await store.open()
    assert [m.body for m in await store.read("alice:bob", limit=10)] == ["hi"]


async def test_a_draft_of_a_stranger_is_a_bug_of_the_caller_and_stores_nothing() -> None:
    store = MemoryStore()
    await store.open()
    with pytest.raises(ValueError, match="carol"):
        await store.commit([draft(), draft(sender="carol", number=2)], [])
    assert await store.read(conv_of("alice", "bob"), limit=10) == []
