"""Stores that break one promise each, so that the conformance suite can be seen to find them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from broken_erasing import BROKEN_ERASING
from broken_presence import BROKEN_PRESENCE
from broken_push import BROKEN_PUSH
from broken_retention import BROKEN_RETENTION
from msgspec.structs import replace
from store_backends import FaultyMemoryStore

from chatd.errors import IdReuse
from chatd.model import (
    Account,
    Advance,
    Appended,
    ConversationPage,
    ConversationView,
    Device,
    Draft,
    Grown,
    Marks,
    Message,
    conv_of,
)
from chatd.store.base import Committed
from chatd.store.memory import MemoryStore
from chatd.store.memory_conversation import Conversation


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
        conv = self._convs.get(conv_of(user, peer), Conversation())
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
        conv = self._convs.get(advance.conv, Conversation())
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


class SortsDrafts(FaultyMemoryStore):
    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        return await super().commit(sorted(drafts, key=lambda one: one.conv), advances)


class CommitsOneByOne(FaultyMemoryStore):
    """Lets others in between the drafts of one call."""

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        appended: list[Appended | IdReuse] = []
        for one in drafts:
            appended += (await super().commit([one], [])).appended
            await asyncio.sleep(0)
        return Committed(appended, (await super().commit([], advances)).grown)


class AbandonsCalls(FaultyMemoryStore):
    """A call that close overtakes fails."""

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        await asyncio.sleep(0)
        return await super().commit(drafts, advances)


class BeforeReadsFromTheStart(FaultyMemoryStore):
    """``before`` gives the first messages of the log, not the last ones before it."""

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        after = 0 if before is not None else after
        return await super().read(conv, after=after, limit=limit, bytes_max=bytes_max)


class KnowsNoEmptyHead(FaultyMemoryStore):
    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        return {conv: head for conv, head in (await super().heads(convs)).items() if head}


class CutsLargeCommits(FaultyMemoryStore):
    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        return await super().commit(drafts[:100], advances)


class PositionOfTheUser(FaultyMemoryStore):
    async def position(self, conv: str, user: str, device: str) -> int:
        return max(await super().position(conv, user, device), self._user_marks(conv, user).delivered)


class UnreadBelowOwnSends(FaultyMemoryStore):
    """Counts what lies above the read mark, whoever sent it."""

    def _view(self, name: str, user: str, device: str) -> ConversationView:
        view = super()._view(name, user, device)
        return replace(view, unread=view.head - view.read)


class OrdersByClock(FaultyMemoryStore):
    def _newest(self, user: str) -> list[str]:
        return sorted(self._convs_of[user], key=lambda conv: -self._convs[conv].log[-1].ts_ms)


class CursorIsAnOffset(FaultyMemoryStore):
    """What moves to the top between two pages pushes the rest down."""

    async def conversations(
        self, user: str, device: str, *, since: str | None = None, cursor: str | None = None, limit: int
    ) -> ConversationPage:
        page = await super().conversations(user, device, since=since, limit=1_000)
        start = int(cursor) if cursor and cursor.isdecimal() else 0
        end = start + limit
        cursor = str(end) if end < len(page.conversations) else None
        return ConversationPage(page.conversations[start:end], page.since, cursor)


class OneIncarnation(FaultyMemoryStore):
    def __init__(self) -> None:
        super().__init__("always")


class UnsortedBlocks(FaultyMemoryStore):
    async def blocks(self, user: str) -> Sequence[str]:
        return (await super().blocks(user))[::-1]


class ForgetsAdmins(FaultyMemoryStore):
    async def add_account(self, account: Account) -> bool:
        return await super().add_account(replace(account, admin=False))


class GivesNamesTwice(FaultyMemoryStore):
    """Looks, waits, writes."""

    async def add_account(self, account: Account) -> bool:
        taken = account.user in self._accounts
        await asyncio.sleep(0)
        self._accounts.setdefault(account.user, account)
        return not taken


class RepeatsTheLastAccount(FaultyMemoryStore):
    async def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        found = await super().accounts(limit=1_000)
        return [one for one in found if one.user >= after][:limit]


class DisablingRevokes(FaultyMemoryStore):
    async def set_disabled(self, user: str, disabled: bool) -> bool:
        for one in await self.devices(user):
            self._drop_token((user, one.device))
        return await super().set_disabled(user, disabled)


# Which check has to find which store. Every check has one: a check that nothing fails says nothing.
BROKEN: list[tuple[type[FaultyMemoryStore], str]] = [
    (StoresRepeats, "a_repeat_gets_the_first_answer"),
    (ForgetsIdsAtClose, "logs_survive_a_reopen"),
    (IdsOfTheWholeStore, "an_id_is_the_senders_in_its_conversation"),
    (SeqLostToIdReuse, "id_reuse_is_a_value_and_the_others_are_stored"),
    (IdReuseRaises, "id_reuse_is_a_value_and_the_others_are_stored"),
    (TimeOfTheDraft, "time_never_runs_back_in_a_conversation"),
    (NormalisesBodies, "bodies_come_back_byte_for_byte"),
    (LastMarkWins, "marks_only_grow"),
    (MarksAboveTheHead, "marks_only_grow"),
    (GrowsAlways, "marks_only_grow"),
    (NeverHides, "a_message_of_a_blocked_sender_is_hidden_for_ever"),
    (UnhidesAtUnblock, "a_message_of_a_blocked_sender_is_hidden_for_ever"),
    (BlockTellsMarks, "marks_stand_still_while_either_blocks"),
    (SecondBlockFreezesAgain, "marks_stand_still_while_either_blocks"),
    (SinceIgnoresMarks, "since_gives_what_changed_after_it"),
    (CursorForgetsSince, "cursors_give_each_conversation_once"),
    (BelievesAnySince, "a_foreign_since_or_cursor_counts_as_absent"),
    (ReadsCharacters, "read_stops_at_its_bytes"),
    (EnrollsTwice, "a_new_device_starts_near_the_head"),
    (FreesDeletedNames, "a_deleted_account_leaves_its_name_and_messages"),
    (KeepsOldTokens, "a_token_names_its_device"),
    (HostReplacesDevices, "a_hosts_device_needs_no_token"),
    (InvitesForEver, "an_invite_is_good_once"),
    (UsableAfterClose, "a_closed_store_is_unavailable"),
    (StoresHalf, "gone_stores_nothing"),
    (BlindFind, "an_unknown_outcome_can_be_found_out"),
    (SortsDrafts, "seqs_follow_the_order_of_the_drafts"),
    (CommitsOneByOne, "concurrent_commits_share_one_log"),
    (AbandonsCalls, "calls_under_way_are_finished_by_close"),
    (BeforeReadsFromTheStart, "read_gives_the_piece_asked_for"),
    (KnowsNoEmptyHead, "what_does_not_exist_is_empty"),
    (CutsLargeCommits, "a_commit_may_be_large"),
    (PositionOfTheUser, "position_is_what_a_device_holds"),
    (UnreadBelowOwnSends, "unread_is_computed"),
    (UnreadBelowOwnSends, "notes_to_self_are_a_conversation"),
    (OrdersByClock, "order_does_not_hang_on_the_clock"),
    (CursorIsAnOffset, "a_change_between_pages_is_found_by_since"),
    (OneIncarnation, "a_store_says_what_it_is"),
    (UnsortedBlocks, "blocks_are_listed"),
    (ForgetsAdmins, "an_account_is_kept_as_given"),
    (GivesNamesTwice, "a_name_is_given_once_however_many_ask"),
    (RepeatsTheLastAccount, "accounts_come_in_pages"),
    (DisablingRevokes, "an_account_can_change"),
    (InvitesForEver, "an_invite_is_good_once_however_many_use_it"),
    (InvitesForEver, "accounts_survive_a_reopen"),
    (NeverHides, "hidden_messages_are_not_unread"),
    (BlockTellsMarks, "a_block_may_come_before_the_conversation"),
    (BlockTellsMarks, "marks_survive_a_reopen"),
    (TimeOfTheDraft, "a_view_tells_all_about_a_conversation"),
    (SinceIgnoresMarks, "the_newest_change_comes_first"),
    (StoresRepeats, "counts_are_totals"),
    (StoresRepeats, "repeats_that_race_are_stored_once"),
    (BlindFind, "find_knows_what_is_stored"),
    (GrowsAlways, "a_users_mark_is_the_maximum_over_devices"),
    (LastMarkWins, "grown_has_an_entry_for_each_user_and_conversation"),
    (MarksAboveTheHead, "marks_may_reach_the_drafts_of_their_call"),
    (GrowsAlways, "marks_without_messages_do_nothing"),
    (LastMarkWins, "marks_that_race_end_at_their_maximum"),
    (EnrollsTwice, "a_device_may_start_again"),
    *BROKEN_ERASING,
    *BROKEN_PRESENCE,
    *BROKEN_PUSH,
    *BROKEN_RETENTION,
]
