"""How long messages take until their recipient has them, and then until they are read.

Timed is the first of a user's devices. What is remembered is what is on its way to somebody who is connected here:
a message that went out live, or was read from the log for a device that had been away. Beyond the bounds messages are
not timed, which a histogram survives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from chatd.metrics.histogram import Histogram
from chatd.model import Message

TRACKED_MAX = 10_000
"""Pairs of a conversation and a recipient; beyond, the one that came first is forgotten."""
UNDELIVERED_MESSAGES_MAX = 256
"""Of one pair; further ones are not timed."""
UNREAD_STEPS_MAX = 16
"""Growths of a delivered mark that wait to be read, of one pair; beyond, the oldest is forgotten."""
TIMES_MAX = 50_000
"""Of all pairs, some 5 MB; beyond, the pair that came first is forgotten."""


class _Track:
    """What is on its way to one user in one conversation. Times are monotonic, in s.

    ``live`` and ``late``: (seq, when it was sent, weight), ascending: to who was there, and to who was not.
    ``unread``: (delivered mark, when it grew so far, weight). ``floor``: the delivered mark. ``upto``: what the user
    lacked at its hello ends there.
    """

    __slots__ = ("floor", "late", "live", "unread", "upto")

    def __init__(self, floor: int) -> None:
        self.live: list[tuple[int, float, int]] = []
        self.late: list[tuple[int, float, int]] = []
        self.unread: list[tuple[int, float, int]] = []
        self.floor = floor
        self.upto = 0


class Latencies:
    """Sent → delivered, apart for who was ``online`` and who ``offline``, and delivered → ``read``.

    ``now_s`` is monotonic, ``now_ms`` Unix time.
    """

    def __init__(
        self,
        online: Histogram,
        offline: Histogram,
        read: Histogram,
        *,
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._online = online
        self._offline = offline
        self._read = read
        self._now_s = now_s
        self._now_ms = now_ms
        self._tracks: OrderedDict[tuple[str, str], _Track] = OrderedDict()
        self.times = 0  # remembered in all tracks

    def __len__(self) -> int:
        return len(self._tracks)

    def live(self, conv: str, user: str, seq: int, *, weight: int = 1, age_s: float = 0.0) -> None:
        """A message goes to a recipient who is connected here; it was committed ``age_s`` ago.

        ``weight``: for so many messages it stands.
        """
        while self.times >= TIMES_MAX:
            self._forget()
        track = self._tracks.get((conv, user))
        if track is None:
            track = self._track(conv, user, seq - 1)
        if len(track.live) < UNDELIVERED_MESSAGES_MAX:
            track.live.append((seq, self._now_s() - age_s, weight))
            self.times += 1

    def live_elsewhere(self, user: str, message: Message, *, weight: int = 1) -> None:
        """The same of a message that another process committed: it is as old as its time says."""
        age_s = max(0, self._now_ms() - message.ts_ms) / 1000
        self.live(message.conv, user, message.seq, weight=weight, age_s=age_s)

    def lacks(self, conv: str, user: str, delivered: int, head: int) -> None:
        """A device said hello: no device of its user has what came after ``delivered``."""
        track = self._tracks.get((conv, user))
        if track is None:
            track = self._track(conv, user, delivered)
        track.floor = min(track.floor, delivered)
        track.upto = max(track.upto, head)

    def late(self, user: str, page: Sequence[Message]) -> None:
        """Messages of one conversation were read from the log for a device of this user."""
        track = self._tracks.get((page[0].conv, user))
        if track is None or not track.upto:
            return
        now_s, now_ms = self._now_s(), self._now_ms()
        floor = max(track.floor, track.late[-1][0] if track.late else 0)
        end = track.live[0][0] if track.live else track.upto + 1
        for message in page:
            timed = floor < message.seq < end and message.sender != user and not message.hidden and not message.first
            if timed and len(track.late) < UNDELIVERED_MESSAGES_MAX and self.times < TIMES_MAX:
                track.late.append((message.seq, now_s - max(0, now_ms - message.ts_ms) / 1000, 1))
                self.times += 1

    def grew(self, conv: str, user: str, delivered: int, read: int) -> None:
        """The marks of a user grew."""
        track = self._tracks.get((conv, user))
        if track is None:
            return
        live = track.live
        if not ((live and live[0][0] <= delivered) or track.late or (read and track.unread)):
            track.floor = max(track.floor, delivered)
            return
        now_s = self._now_s()
        weight = 0
        if track.live and track.live[0][0] <= delivered:
            weight = self._take(track.live, delivered, now_s, self._online)
        if track.late and track.late[0][0] <= delivered:
            weight += self._take(track.late, delivered, now_s, self._offline)
        track.floor = max(track.floor, delivered)
        unread = track.unread
        if weight:
            unread.append((delivered, now_s, weight))
            self.times += 1
            if len(unread) > UNREAD_STEPS_MAX:
                del unread[0]
                self.times -= 1
        if read and unread and unread[0][0] <= read:
            self._take_read(unread, read, now_s)
        self._settle(conv, user, track)

    def heard(self, conv: str, user: str, delivered: int, read: int) -> None:
        """Another process committed these marks, and timed the deliveries; what is read here may be timed here."""
        track = self._tracks.get((conv, user))
        if track is None:
            return
        for waiting in (track.live, track.late):
            done = sum(one[0] <= delivered for one in waiting)
            del waiting[:done]
            self.times -= done
        track.floor = max(track.floor, delivered)
        self._take_read(track.unread, read, self._now_s())
        self._settle(conv, user, track)

    def _settle(self, conv: str, user: str, track: _Track) -> None:
        """Forget a pair of which nothing is on its way."""
        if not track.live and not track.late and not track.unread and track.floor >= track.upto:
            del self._tracks[conv, user]

    def _take(self, waiting: list[tuple[int, float, int]], upto: int, now_s: float, histogram: Histogram) -> int:
        """Time what is at most ``upto``, and take it away. Returns: for how many messages it stood."""
        done = weights = 0
        for seq, sent_s, weight in waiting:
            if seq > upto:
                break
            histogram.observe(now_s - sent_s, weight)
            done += 1
            weights += weight
        del waiting[:done]
        self.times -= done
        return weights

    def _take_read(self, unread: list[tuple[int, float, int]], read: int, now_s: float) -> None:
        done = 0
        for upto, delivered_s, weight in unread:
            if upto > read:
                break
            self._read.observe(now_s - delivered_s, weight)
            done += 1
        del unread[:done]
        self.times -= done

    def _track(self, conv: str, user: str, floor: int) -> _Track:
        track = self._tracks[conv, user] = _Track(floor)
        if len(self._tracks) > TRACKED_MAX:
            self._forget()
        return track

    def _forget(self) -> None:
        _, track = self._tracks.popitem(last=False)
        self.times -= len(track.live) + len(track.late) + len(track.unread)
