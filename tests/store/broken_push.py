"""Stores that break one promise of push each, for ``broken_stores``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace
from store_backends import FaultyMemoryStore

from chatd.model import (
    Device,
    Message,
    Pushed,
    Subscription,
    Unpushed,
    UnpushedPage,
    conv_of,
    peer_of,
)
from chatd.store.memory_accounts import MemoryAccounts
from chatd.store.memory_conversation import Conversation

# --- subscriptions -------------------------------------------------------------------------------------------


class KeepsTheFirstSubscription(FaultyMemoryStore):
    async def put_subscription(self, subscription: Subscription) -> bool:
        old = self._subscriptions.get(subscription.user, {}).get(subscription.device)
        return await super().put_subscription(old or subscription)


class SubscribesNoDevice(FaultyMemoryStore):
    async def put_subscription(self, subscription: Subscription) -> bool:
        await self.put_device(Device(subscription.user, subscription.device, "", 0), None)
        return await super().put_subscription(subscription)


class RemovesTheNewOne(FaultyMemoryStore):
    """A removal that comes late takes what has taken the place."""

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        return await super().remove_subscription(user, device)


class SubscriptionsOutliveDevices(FaultyMemoryStore):
    async def remove_device(self, user: str, device: str) -> bool:
        return await MemoryAccounts.remove_device(self, user, device)

    def _expired(self, user: str, device: str, now_ms: int) -> bool:
        return (user, device) in self._devices and super()._expired(user, device, now_ms)


class TellsExpiredDevices(FaultyMemoryStore):
    def _expired(self, user: str, device: str, now_ms: int) -> bool:
        return False


class TellsTheDisabled(FaultyMemoryStore):
    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        disabled = await self.account(user)
        await self.set_disabled(user, False)
        found = await super().subscriptions(user, now_ms)
        await self.set_disabled(user, disabled is not None and disabled.disabled)
        return found


# --- what is owed --------------------------------------------------------------------------------------------


class OwesUntilAllDevicesTookIt(FaultyMemoryStore):
    def _newest_owed(self, conv: str, user: str) -> Message | None:
        known = self._convs[conv]
        least = min((marks.delivered for marks in known.marks.get(user, {}).values()), default=0)
        return known.newest_of_peer(user, max(least, known.pushed.get(user, 0)))


class ReadingEndsIt(FaultyMemoryStore):
    """What was delivered and not read is owed all the same."""

    def _newest_owed(self, conv: str, user: str) -> Message | None:
        return self._convs[conv].newest_of_peer(user, self._convs[conv].user_marks(user).read)


class ForgetsPushes(FaultyMemoryStore):
    async def pushed(self, marks: Sequence[Pushed]) -> None:
        pass


class LastPushWins(FaultyMemoryStore):
    async def pushed(self, marks: Sequence[Pushed]) -> None:
        for one in marks:
            if one.conv in self._convs:
                self._convs[one.conv].pushed[one.user] = min(one.seq, len(self._convs[one.conv].log))


class PushesAboveTheHead(FaultyMemoryStore):
    async def pushed(self, marks: Sequence[Pushed]) -> None:
        for one in marks:
            known = self._convs.get(one.conv, Conversation())
            known.pushed[one.user] = max(known.pushed.get(one.user, 0), one.seq)


class OwesTheEndOfTheLog(FaultyMemoryStore):
    """After an own message nothing is owed."""

    def _newest_owed(self, conv: str, user: str) -> Message | None:
        newest = super()._newest_owed(conv, user)
        return newest if newest is self._convs[conv].log[-1] else None


class OwesTheHidden(FaultyMemoryStore):
    def _newest_owed(self, conv: str, user: str) -> Message | None:
        last = self._convs[conv].log[-1]
        return last if last.hidden and last.sender != user else super()._newest_owed(conv, user)


class OnlyOwnBlocksStop(FaultyMemoryStore):
    def _newest_owed(self, conv: str, user: str) -> Message | None:
        apart = (peer_of(conv, user) or "") in self._blocks[user]
        known = self._convs[conv]
        above = max(known.user_marks(user).delivered, known.pushed.get(user, 0))
        return None if apart else known.newest_of_peer(user, above)


class BlocksTakeWhatWasOwed(FaultyMemoryStore):
    """An unblock does not give it back."""

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        await super().block(user, peer, on=on)
        conv = conv_of(user, peer)
        await self.pushed([Pushed(conv, one, 1_000) for one in (user, peer)])


class BadgeOfConversations(FaultyMemoryStore):
    """How many conversations have something unread."""

    def _unread(self, user: str) -> int:
        mine = [self._convs[conv] for conv in self._convs_of[user]]
        return sum(known.unread(user, known.user_marks(user).read) > 0 for known in mine)


class BadgeCountsTheHidden(FaultyMemoryStore):
    def _unread(self, user: str) -> int:
        total = 0
        for conv in self._convs_of[user]:
            known = self._convs[conv]
            own = max((one.seq for one in known.log if one.sender == user), default=0)
            total += len(known.log) - max(own, known.user_marks(user).read)
        return total


# --- walks and what survives ---------------------------------------------------------------------------------


class KeepsTheLast(FaultyMemoryStore):
    async def keep(self, name: str, value: str) -> str:
        self._kept.pop(name, None)
        return await super().keep(name, value)


class KeepRaces(FaultyMemoryStore):
    """Looks, waits, writes."""

    async def keep(self, name: str, value: str) -> str:
        if name not in self._kept:
            await asyncio.sleep(0)
            self._kept[name] = value
            return value
        return self._kept[name]


class ForgetsPushAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        for known in self._convs.values():
            known.pushed.clear()
        await super().close()


class ForgetsSubscriptionsAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        self._subscriptions.clear()
        await super().close()


class WalkForgetsWhatIsShown(FaultyMemoryStore):
    def _unpushed_row(self, conv: str, user: str, newer_than_ms: int) -> list[Unpushed]:
        return [replace(row, shown=0) for row in super()._unpushed_row(conv, user, newer_than_ms) if row.seq]


class WalkRepeatsTheLast(FaultyMemoryStore):
    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        cursor = cursor and str(int(cursor) - 1)
        limit += cursor is not None
        return await super().unpushed(cursor=cursor, limit=limit, newer_than_ms=newer_than_ms, every_user=every_user)


class WalkEndsAtAnEmptyPage(FaultyMemoryStore):
    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        page = await super().unpushed(cursor=cursor, limit=limit, newer_than_ms=newer_than_ms, every_user=every_user)
        return page if page.rows else UnpushedPage(())


class WalkIgnoresAge(FaultyMemoryStore):
    def _unpushed_row(self, conv: str, user: str, newer_than_ms: int) -> list[Unpushed]:
        return super()._unpushed_row(conv, user, 0)


class WalkJudgesTheMessage(FaultyMemoryStore):
    """Takes the age of the message that is owed for the conversation's."""

    def _unpushed_row(self, conv: str, user: str, newer_than_ms: int) -> list[Unpushed]:
        newest = self._newest_owed(conv, user)
        old = newest is not None and newest.ts_ms < newer_than_ms
        return super()._unpushed_row(conv, user, 2**53 if old else newer_than_ms)


class WalksOverEveryUser(FaultyMemoryStore):
    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        return await super().unpushed(cursor=cursor, limit=limit, newer_than_ms=newer_than_ms, every_user=True)


class WalksByChange(FaultyMemoryStore):
    """What changes between two pages moves to the front, and pushes the rest down."""

    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        self._convs = dict(sorted(self._convs.items(), key=lambda item: -item[1].changed))
        return await super().unpushed(cursor=cursor, limit=limit, newer_than_ms=newer_than_ms, every_user=every_user)


BROKEN_PUSH: list[tuple[type[FaultyMemoryStore], str]] = [
    (KeepsTheFirstSubscription, "a_device_has_one_subscription"),
    (SubscribesNoDevice, "a_device_has_one_subscription"),
    (RemovesTheNewOne, "a_subscription_is_removed_by_its_endpoint"),
    (SubscriptionsOutliveDevices, "a_subscription_goes_with_its_device"),
    (TellsExpiredDevices, "who_cannot_log_in_is_not_told"),
    (TellsTheDisabled, "who_cannot_log_in_is_not_told"),
    (OwesUntilAllDevicesTookIt, "what_no_device_took_is_owed"),
    (ReadingEndsIt, "what_no_device_took_is_owed"),
    (ForgetsPushes, "what_was_pushed_is_not_owed"),
    (LastPushWins, "pushed_marks_are_maxima"),
    (PushesAboveTheHead, "pushed_marks_are_maxima"),
    (OwesTheEndOfTheLog, "the_peers_newest_message_is_owed"),
    (OwesTheHidden, "hidden_messages_are_never_owed"),
    (OnlyOwnBlocksStop, "a_block_of_either_stops_what_was_owed"),
    (BlocksTakeWhatWasOwed, "a_block_of_either_stops_what_was_owed"),
    (BadgeOfConversations, "the_badge_is_all_that_is_unread"),
    (BadgeCountsTheHidden, "the_badge_is_all_that_is_unread"),
    (BadgeCountsTheHidden, "unread_is_what_the_lists_say"),
    (KeepsTheLast, "a_kept_value_is_the_first_one"),
    (KeepRaces, "a_kept_value_is_the_first_one"),
    (ForgetsPushAtClose, "what_is_owed_survives_a_reopen"),
    (ForgetsSubscriptionsAtClose, "what_is_owed_survives_a_reopen"),
    (WalkForgetsWhatIsShown, "a_walk_gives_each_owed_or_shown_one_once"),
    (WalkRepeatsTheLast, "a_walk_gives_each_owed_or_shown_one_once"),
    (WalkEndsAtAnEmptyPage, "a_walk_may_have_empty_pages"),
    (WalkIgnoresAge, "a_walk_leaves_old_conversations_out"),
    (WalkJudgesTheMessage, "a_walk_leaves_old_conversations_out"),
    (WalksOverEveryUser, "a_walk_may_be_of_subscribers_only"),
    (WalksByChange, "a_walk_misses_nobody_who_did_not_change"),
    (ForgetsPushAtClose, "a_walk_is_the_same_after_a_reopen"),
]
