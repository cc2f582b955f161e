"""Every store keeps every promise of ``chatd.store.base``, and the suite that says so finds stores that do not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from store_backends import Deaf, FaultyMemoryStore, MemoryBackend, sqlite_backend

from chatd.errors import IdReuse, Unavailable
from chatd.model import (
    Account,
    Advance,
    Appended,
    ConversationPage,
    Device,
    Draft,
    Grown,
    Marks,
    Message,
    conv_of,
)
from chatd.store.base import AccountStore, Committed, MessageStore, Store
from chatd.store.conformance import CHECKS, Backend, Factory, Fault, Result, run, run_check
from chatd.store.memory import MemoryStore, _Conversation

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


# --- stores that break one promise each ------------------------------------------------------------------


class StoresRepeats(FaultyMemoryStore):
    """No unique key: a repeat is a second message."""

    def _append(self, draft: Draft) -> Appended | IdReuse:
        for conv in self._convs.values():
            conv.seqs.clear()
        return super()._append(draft)


class ForgetsIdsAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        for conv in self._convs.values():
            conv.seqs.clear()
        await super().close()


class IdsOfTheWholeStore(FaultyMemoryStore):
    """An id names a message whoever sends it, in any conversation."""

    def _append(self, draft: Draft) -> Appended | IdReuse:
        for conv in self._convs.values():
            for (_, known), seq in conv.seqs.items():
                if known == draft.id:
                    return Appended(conv.log[seq - 1], duplicate=True)
        return super()._append(draft)


class SeqLostToIdReuse(FaultyMemoryStore):
    """A refused draft leaves a gap."""

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        done = await super().commit(drafts, advances)
        for draft, result in zip(drafts, done.appended, strict=True):
            if isinstance(result, IdReuse):
                log = self._convs[draft.conv].log
                log.append(replace(log[-1], seq=log[-1].seq + 1))
        return done


class IdReuseRaises(FaultyMemoryStore):
    def _append(self, draft: Draft) -> Appended | IdReuse:
        result = super()._append(draft)
        if isinstance(result, IdReuse):
            raise result
        return result


class TimeOfTheDraft(FaultyMemoryStore):
    """ts may run back."""

    def _append(self, draft: Draft) -> Appended | IdReuse:
        result = super()._append(draft)
        if isinstance(result, Appended) and not result.duplicate:
            result = Appended(replace(result.message, ts_ms=draft.ts_ms))
            self._convs[draft.conv].log[-1] = result.message
        return result


class NormalisesBodies(FaultyMemoryStore):
    def _append(self, draft: Draft) -> Appended | IdReuse:
        return super()._append(replace(draft, body=draft.body.replace("\r\n", "\n")))


class LastMarkWins(FaultyMemoryStore):
    """A mark is what was said last, not the maximum."""

    def _advance(self, advance: Advance) -> None:
        if advance.conv in self._convs:
            self._convs[advance.conv].marks.get(advance.user, {}).pop(advance.device, None)
        super()._advance(advance)


class MarksAboveTheHead(FaultyMemoryStore):
    def _advance(self, advance: Advance) -> None:
        super()._advance(advance)
        if advance.conv in self._convs:
            devices = self._convs[advance.conv].marks[advance.user]
            old = devices.get(advance.device, Marks())
            new = Marks(max(old.delivered, advance.delivered), max(old.read, advance.read))
            devices[advance.device] = new


class GrowsAlways(FaultyMemoryStore):
    """A receipt for every ack."""

    def _grown(self, conv: str, user: str, before: Marks) -> Grown:
        return replace(super()._grown(conv, user, before), grew=True)


class NeverHides(FaultyMemoryStore):
    def _append(self, draft: Draft) -> Appended | IdReuse:
        blocks = dict(self._blocks)
        self._blocks.clear()
        try:
            return super()._append(draft)
        finally:
            self._blocks.update(blocks)


class UnhidesAtUnblock(FaultyMemoryStore):
    async def block(self, user: str, peer: str, *, on: bool) -> None:
        await super().block(user, peer, on=on)
        conv = self._convs.get(conv_of(user, peer), _Conversation())
        conv.log[:] = [replace(one, hidden=False) for one in conv.log]


class BlockTellsMarks(FaultyMemoryStore):
    """Who is blocked still sees the marks grow."""

    def _marks_told(self, conv: str, peer: str) -> Marks:
        return self._user_marks(conv, peer)


class SecondBlockFreezesAgain(FaultyMemoryStore):
    async def block(self, user: str, peer: str, *, on: bool) -> None:
        if on:
            self._frozen.pop(conv_of(user, peer), None)
        await super().block(user, peer, on=on)


class SinceIgnoresMarks(FaultyMemoryStore):
    def _advance(self, advance: Advance) -> None:
        conv = self._convs.get(advance.conv, _Conversation())
        changed = conv.changed
        super()._advance(advance)
        conv.changed = changed


class CursorForgetsSince(FaultyMemoryStore):
    async def conversations(
        self, user: str, device: str, *, since: str | None = None, cursor: str | None = None, limit: int
    ) -> ConversationPage:
        page = await super().conversations(user, device, since=since, cursor=cursor, limit=limit)
        cursor = page.cursor and re.sub(r"/\d+\.", "/0.", page.cursor)
        return replace(page, cursor=cursor)


class BelievesAnySince(FaultyMemoryStore):
    def _numbers(self, text: str | None, count: int) -> list[int] | None:
        numbers = [int(part) for part in re.findall(r"\d{1,9}", text or "", re.ASCII)]
        return numbers[-count:] if len(numbers) >= count else None


class ReadsCharacters(FaultyMemoryStore):
    """Takes ``bytes_max`` for characters."""

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        return await super().read(conv, after=after, before=before, limit=limit, bytes_max=bytes_max * 4)


class EnrollsTwice(FaultyMemoryStore):
    """An enrolled device does not keep its positions."""

    async def enroll(
        self, user: str, device: str, *, initial_history: int, newest_max: int, again: bool = False
    ) -> None:
        await super().enroll(user, device, initial_history=initial_history, newest_max=newest_max, again=True)


class FreesDeletedNames(FaultyMemoryStore):
    async def delete_account(self, user: str) -> bool:
        deleted = await super().delete_account(user)
        self._accounts.pop(user, None)
        return deleted


class KeepsOldTokens(FaultyMemoryStore):
    def _drop_token(self, key: tuple[str, str]) -> None:
        pass


class HostReplacesDevices(FaultyMemoryStore):
    async def put_device(self, device: Device, token_hash: bytes | None) -> None:
        await super().put_device(device, token_hash)
        self._devices[device.user, device.device] = device


class InvitesForEver(FaultyMemoryStore):
    async def redeem_invite(self, invite_hash: bytes, account: Account, now_ms: int) -> bool | None:
        invite = self._invites.get(invite_hash)
        done = await super().redeem_invite(invite_hash, account, now_ms)
        if invite:
            self._invites[invite_hash] = invite
        return done


class UsableAfterClose(FaultyMemoryStore):
    def _check_open(self) -> None:
        pass


class StoresHalf(FaultyMemoryStore):
    """When the engine goes away, the first draft is stored all the same."""

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        if self.fault == "gone":
            await MemoryStore.commit(self, drafts[:1], [])
        return await super().commit(drafts, advances)


class BlindFind(FaultyMemoryStore):
    """Says that nothing is stored."""

    async def find(self, conv: str, sender: str, id: str) -> Message | None:
        return None


BROKEN: dict[type[FaultyMemoryStore], str] = {
    StoresRepeats: "a_repeat_gets_the_first_answer",
    ForgetsIdsAtClose: "logs_survive_a_reopen",
    IdsOfTheWholeStore: "an_id_is_the_senders_in_its_conversation",
    SeqLostToIdReuse: "id_reuse_is_a_value_and_the_others_are_stored",
    IdReuseRaises: "id_reuse_is_a_value_and_the_others_are_stored",
    TimeOfTheDraft: "time_never_runs_back_in_a_conversation",
    NormalisesBodies: "bodies_come_back_byte_for_byte",
    LastMarkWins: "marks_only_grow",
    MarksAboveTheHead: "marks_only_grow",
    GrowsAlways: "marks_only_grow",
    NeverHides: "a_message_of_a_blocked_sender_is_hidden_for_ever",
    UnhidesAtUnblock: "a_message_of_a_blocked_sender_is_hidden_for_ever",
    BlockTellsMarks: "marks_stand_still_while_either_blocks",
    SecondBlockFreezesAgain: "marks_stand_still_while_either_blocks",
    SinceIgnoresMarks: "since_gives_what_changed_after_it",
    CursorForgetsSince: "cursors_give_each_conversation_once",
    BelievesAnySince: "a_foreign_since_or_cursor_counts_as_absent",
    ReadsCharacters: "read_stops_at_its_bytes",
    EnrollsTwice: "a_new_device_starts_near_the_head",
    FreesDeletedNames: "a_deleted_account_leaves_its_name_and_messages",
    KeepsOldTokens: "a_token_names_its_device",
    HostReplacesDevices: "a_hosts_device_needs_no_token",
    InvitesForEver: "an_invite_is_good_once",
    UsableAfterClose: "a_closed_store_is_unavailable",
    StoresHalf: "gone_stores_nothing",
    BlindFind: "an_unknown_outcome_can_be_found_out",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
async def test_a_broken_store_is_found(kind: type[FaultyMemoryStore]) -> None:
    result = await run_check(BROKEN[kind], factory_of(MemoryBackend(kind)))
    assert result.error is not None


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
    assert len(skipped) == 6
    assert Result("counts_are_totals") in results


async def test_every_method_of_the_contract_is_tried_after_close() -> None:
    called: set[str] = set()

    class Watched(FaultyMemoryStore):
        def __getattribute__(self, name: str) -> object:
            called.add(name)
            return super().__getattribute__(name)

    await CHECKS["a_closed_store_is_unavailable"](MemoryBackend(Watched))
    contract = {n for kind in (MessageStore, AccountStore) for n in vars(kind) if not n.startswith("_")}
    assert contract - {"durability", "incarnation"} <= called


async def test_unavailable_is_a_refusal_that_may_be_repeated() -> None:
    store = MemoryStore()
    with pytest.raises(Unavailable) as caught:
        await store.probe()
    assert caught.value.temporary
