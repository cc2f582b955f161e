"""When to look at which conversation for a push. Pure: time and chance are arguments.

The store knows what is owed; this only remembers when to ask it, so losing all of it loses nothing. One entry a user
and conversation: messages that come meanwhile collapse into it.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable

COLLAPSE_S = 1.0
"""A conversation that was notified of is not notified of again sooner: a burst becomes few notifications."""
SHOWN_MAX = 100_000
"""Notifications that are remembered as on a screen; beyond, the oldest is forgotten and never cleared."""
LOOK_AGAIN_S = 60.0
"""A conversation whose every target waits is not looked at sooner for a newer message."""
HEAP_GARBAGE_MAX = 1_024
ATTEMPTS_COUNTED_MAX = 30
_NOT_TRIED = (-math.inf, 0)


class Entry:
    """One conversation that one user may have to be told of.

    ``seq``: the newest message heard of; ``delivered`` and ``read``: what the user's devices have said of it since.
    ``told_seq``: what the last attempt told. Its targets are settled, or wait for their own next attempt: one push
    service that is down must not hold up the others.
    """

    __slots__ = (
        "busy",
        "conv",
        "delivered",
        "due_s",
        "not_before_s",
        "read",
        "resting",
        "seq",
        "settled",
        "taken_seq",
        "told_seq",
        "user",
        "waits",
    )

    def __init__(self, user: str, conv: str, seq: int, due_s: float) -> None:
        self.user = user
        self.conv = conv
        self.seq = seq
        self.due_s = due_s
        self.busy = False
        self.resting = False  # told of, and kept for a while so that the next notification is not too soon
        self.delivered = 0
        self.read = 0
        self.not_before_s = 0.0  # a message brings it forward so far and no further
        self.taken_seq = 0
        self.told_seq = 0
        self.settled: set[Hashable] = set()
        self.waits: dict[Hashable, tuple[float, int]] = {}  # target → when it is tried again, attempts that failed

    def begin(self, seq: int, targets: Collection[Hashable], now_s: float) -> list[Hashable]:
        """An attempt to tell ``targets`` of everything up to ``seq``. Returns: to whom it is to be sent now."""
        if self.told_seq != seq:
            self.told_seq = seq
            self.settled.clear()
        self.waits = {name: wait for name, wait in self.waits.items() if name in targets}
        return [name for name in targets if name not in self.settled and self.waits.get(name, _NOT_TRIED)[0] <= now_s]

    def settle(self, target: Hashable) -> None:
        """This target needs nothing more of what is told."""
        self.settled.add(target)
        self.waits.pop(target, None)

    def attempts(self, target: Hashable) -> int:
        """How many attempts on this target failed in a row."""
        return self.waits.get(target, _NOT_TRIED)[1]

    def wait(self, target: Hashable, until_s: float, *, failed: bool = True) -> None:
        """This target was not reached and is tried again then; not ``failed``: it was not its fault."""
        self.waits[target] = (until_s, min(self.attempts(target) + failed, ATTEMPTS_COUNTED_MAX))


class Outbox:
    """The entries, by when they are due; at most ``pending_max``, and ``pending_per_user_max`` of one user.

    One too many is not kept: then `overflowed`, and the store is to be walked when there is room again.
    """

    def __init__(self, *, pending_max: int, pending_per_user_max: int) -> None:
        self._pending_max = pending_max
        self._per_user_max = pending_per_user_max
        self._entries: dict[tuple[str, str], Entry] = {}
        self._expected: dict[tuple[str, str], list[float]] = {}  # → [seq, due_s]; the first to be due stands first
        self._of_user: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Entry]] = []
        self._pushed = 0
        self._shown: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._entries) + len(self._expected)

    @property
    def has_room(self) -> bool:
        """Whether it has drained below half of its bound."""
        return len(self) <= self._pending_max // 2

    # --- what is heard ----------------------------------------------------------------------------------

    def expect(self, user: str, conv: str, seq: int, due_s: float) -> None:
        """A message went to somebody who is there and will most likely take it: if not, look at ``due_s``.

        It never lies before that of an earlier call; so this costs no order and next to nothing.
        """
        key = (user, conv)
        expected = self._expected.get(key)
        if expected is not None:
            expected[0] = seq
        elif key in self._entries:
            self.note(user, conv, seq, due_s)
        elif len(self) >= self._pending_max:
            self.overflowed = True
        else:
            self._expected[key] = [seq, due_s]

    def hurry(self, user: str, conv: str, seq: int, due_s: float) -> None:
        """Who was expected to take it is not there; if it was taken meanwhile, nothing happens."""
        if (user, conv) in self._expected:
            self.note(user, conv, seq, due_s)

    def note(self, user: str, conv: str, seq: int, due_s: float) -> None:
        """A message was committed; look at its conversation at ``due_s``."""
        expected = self._expected.pop((user, conv), None)
        if expected is not None:
            seq = max(seq, int(expected[0]))  # a hint about an older message must not hide a newer one
        entry = self._entries.get((user, conv))
        if entry is None:
            if len(self) >= self._pending_max or self._of_user[user] >= self._per_user_max:
                self.overflowed = True
                return
            entry = self._entries[user, conv] = Entry(user, conv, seq, due_s)
            self._of_user[user] += 1
            self._queue(entry)
            return
        entry.seq = max(entry.seq, seq)
        if entry.busy or (entry.resting and entry.seq <= entry.told_seq):
            return  # it is seen to afterwards, or it is told
        due_s = max(due_s, entry.not_before_s)
        if entry.resting or due_s < entry.due_s:
            entry.resting = False
            entry.due_s = due_s
            self._queue(entry)

    def delivered(self, user: str, conv: str, seq: int) -> None:
        """A device of the user has everything up to ``seq``."""
        key = (user, conv)
        expected = self._expected.get(key)
        if expected is not None:
            if seq >= expected[0]:
                del self._expected[key]
            return
        entry = self._entries.get(key)
        if entry is not None:
            entry.delivered = max(entry.delivered, seq)
            if not entry.busy and entry.delivered >= entry.seq:
                self._forget(entry)

    # --- what is due ------------------------------------------------------------------------------------

    def next_s(self) -> float | None:
        """When the next entry is due, or None."""
        self._clean()
        heap_s = self._heap[0][0] if self._heap else None
        if not self._expected:
            return heap_s
        expected_s = next(iter(self._expected.values()))[1]
        return expected_s if heap_s is None else min(heap_s, expected_s)

    def take(self, now_s: float) -> Entry | None:
        """An entry that is due, now under way; or None."""
        while self._expected:
            (user, conv), (seq, due_s) = next(iter(self._expected.items()))
            if due_s > now_s:
                break
            self.note(user, conv, int(seq), due_s)  # it was not taken in time
        while True:
            self._clean()
            if not self._heap or self._heap[0][0] > now_s:
                return None
            entry = heapq.heappop(self._heap)[2]
            if entry.resting:
                self._forget(entry)
                continue
            entry.busy = True
            entry.taken_seq = entry.seq
            return entry

    def done(self, entry: Entry, now_s: float) -> None:
        """Everything up to ``entry.told_seq`` is told; what came meanwhile is due a little later."""
        entry.busy = False
        entry.waits.clear()
        if entry.delivered >= entry.seq:
            self._forget(entry)
            return
        entry.resting = entry.seq <= entry.told_seq
        entry.not_before_s = entry.due_s = now_s + COLLAPSE_S
        self._queue(entry)

    def again(self, entry: Entry, due_s: float) -> None:
        """It could not be tried: once more at ``due_s`` and not before, unless a device takes it meanwhile."""
        self._again(entry, due_s, due_s)

    def retry(self, entry: Entry, now_s: float) -> None:
        """It did not get through to those who wait: once more when the first one's wait is over.

        A newer message shortens nobody's wait, but those who were reached are told of it; if nobody was, it is looked
        whether there is a new target.
        """
        due_s = min(until_s for until_s, _ in entry.waits.values())
        not_before_s = min(due_s, now_s + (COLLAPSE_S if entry.settled else LOOK_AGAIN_S))
        self._again(entry, not_before_s if entry.seq > entry.told_seq else due_s, not_before_s)

    def _again(self, entry: Entry, due_s: float, not_before_s: float) -> None:
        entry.busy = False
        if entry.delivered >= entry.seq:
            self._forget(entry)
            return
        entry.due_s, entry.not_before_s = due_s, not_before_s
        self._queue(entry)

    def drop(self, entry: Entry, now_s: float) -> None:
        """Nothing is owed of what stood when it was taken; what came meanwhile is due at once."""
        entry.busy = False
        entry.waits.clear()
        if entry.seq > max(entry.taken_seq, entry.delivered):
            entry.due_s = now_s
            self._queue(entry)
        else:
            self._forget(entry)

    def lag_s(self, now_s: float) -> float:
        """For how long the oldest entry that is due has been so."""
        due_s = self.next_s()
        return 0.0 if due_s is None else max(0.0, now_s - due_s)

    # --- what is on a screen ----------------------------------------------------------------------------

    def show(self, user: str, conv: str, seq: int) -> None:
        """A notification of everything up to ``seq`` is on the user's screens."""
        self._shown.pop((user, conv), None)
        self._shown[user, conv] = seq
        if len(self._shown) > SHOWN_MAX:
            self._shown.popitem(last=False)

    def read(self, user: str, conv: str, seq: int) -> int:
        """The user has read up to ``seq``. Returns: the seq of the notification that is to go, or 0."""
        entry = self._entries.get((user, conv))
        if entry is not None:  # under way: what it puts on a screen is read before it is there
            entry.read = max(entry.read, seq)
        shown = self._shown.get((user, conv))
        if shown is None or seq < shown:
            return 0
        del self._shown[user, conv]
        return shown

    # --- the heap ---------------------------------------------------------------------------------------

    def _queue(self, entry: Entry) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (entry.due_s, self._pushed, entry))
        if len(self._heap) > 2 * len(self._entries) + HEAP_GARBAGE_MAX:
            self._heap = [one for one in self._heap if self._stands(one)]
            heapq.heapify(self._heap)

    def _stands(self, one: tuple[float, int, Entry]) -> bool:
        due_s, _, entry = one
        return not entry.busy and entry.due_s == due_s and self._entries.get((entry.user, entry.conv)) is entry

    def _clean(self) -> None:
        while self._heap and not self._stands(self._heap[0]):
            heapq.heappop(self._heap)

    def _forget(self, entry: Entry) -> None:
        if self._entries.pop((entry.user, entry.conv), None) is not None:
            self._of_user[entry.user] -= 1
            if not self._of_user[entry.user]:
                del self._of_user[entry.user]


def retry_delay_s(
    attempts: int, *, least_s: float, most_s: float, after_s: float | None, random: Callable[[], float]
) -> float:
    """How long to wait after so many failed attempts: full jitter under a doubling bound, but at least ``after_s``."""
    delay_s = random() * min(most_s, least_s * 2.0**attempts)
    return delay_s if after_s is None else max(delay_s, after_s)
