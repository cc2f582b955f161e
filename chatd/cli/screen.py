"""The screen of ``chatd top``: from the looks so far to lines that fit a terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from chatd.cli.figures import duration, latency, plain, rate, size, sparkline, whole
from chatd.cli.looking import Look, called
from chatd.cli.report import latency_names
from chatd.stats import Buckets, History, Reading, Snapshot, quantile, total

WIDTH_MIN, HEIGHT_MIN = 40, 8
LABEL, FIGURE = 19, 11
LIST_LINES_MIN = 3
"""A blank line, the title, and the first row: less says nothing."""

RATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("messages/s", ("messages_committed",)),
    ("delivered/s", ("messages_live", "messages_read")),
    ("receipts/s", ("receipts_sent",)),
    ("presence/s", ("presence_frames",)),
    ("new connections/s", ("connections_opened",)),
    ("refused/s", ("frames_refused",)),
)

Style = Literal["", "title", "good", "bad", "dim"]


class Line(Struct, frozen=True):
    """One line of the screen, at most as wide as it, and how it looks where there is colour."""

    text: str
    style: Style = ""


def screen(look: Look, history: History, *, width: int, height: int, silent_s: float = 0.0) -> list[Line]:
    """At most ``height`` lines. ``silent_s``: for how long nobody has answered; the look is that old then."""
    width = max(width, WIDTH_MIN)
    one = total(look.servers)
    lines = [_headline(look, one, silent_s), Line(_levels(one, history.now)), Line("")]
    lines += _rates(history, width)
    lines += [Line(""), *_latencies(one, history, width)]
    left = max(0, height - len(lines))
    lists = [part for part in (_processes(look), _hot(one), _slow(one)) if part]
    lines += _shared(lists, left)
    return [Line(plain(line.text, width).rstrip(), line.style) for line in lines[: max(height, 1)]]


def _headline(look: Look, one: Snapshot, silent_s: float) -> Line:
    if silent_s:
        return Line(f"chatd  NOBODY ANSWERS for {duration(silent_s)}; this is how it was. q ends.", "bad")
    draining = one.draining or (look.cluster is not None and look.cluster.draining)
    state = "ready" if look.ready else "DRAINING" if draining else "NOT READY"
    many = f"  {len(look.servers)} processes" if len(look.servers) > 1 else ""
    why = f"  {one.why}" if one.why else ""
    return Line(f"chatd {one.version}  {state}  up {duration(one.up_s)}{many}{why}", "good" if look.ready else "bad")


def _levels(one: Snapshot, now: Reading) -> str:
    levels = one.gauges
    cpu = now.rate("process_cpu_seconds")
    parts = (
        f"{whole(one.connections)} connections of {whole(one.users)} users",
        size(one.rss_bytes),
        f"CPU {cpu * 100:.0f} %" if cpu else "",
        f"{whole(levels.get('queue_drafts', 0))} wait for a commit",
        f"{whole(levels.get('catch_ups', 0))} catch up",
        f"{whole(levels.get('push_pending', 0))} pushes",
    )
    return "  ".join(part for part in parts if part)


def _rates(history: History, width: int) -> Iterator[Line]:
    for label, counters in RATES:
        values = [one.rate(*counters) for one in history.readings]
        now = rate(values[-1]) if values else "–"
        yield Line(f"{label:{LABEL}}{now:>{FIGURE}}  {sparkline(values, width - LABEL - FIGURE - 2)}")


def _latencies(one: Snapshot, history: History, width: int) -> Iterator[Line]:
    yield Line(f"{'':{LABEL}}{'half':>{FIGURE}}{'99 of 100':>{FIGURE}}  (sparkline: 99 of 100)", "title")
    for name, label in latency_names(one):
        now = history.now.values.get(name)
        values = [_tail(reading.values.get(name)) for reading in history.readings]
        bars = sparkline(values, width - LABEL - 2 * FIGURE - 2)
        yield Line(
            f"{plain(label, LABEL - 1):{LABEL}}{latency(now, 0.5):>{FIGURE}}{latency(now, 0.99):>{FIGURE}}  {bars}"
        )


def _tail(values: Buckets | None) -> float | None:
    return None if values is None else quantile(values, 0.99)


def _processes(look: Look) -> list[Line]:
    if len(look.servers) < 2 and look.cluster is None:
        return []
    states = {} if look.cluster is None else {worker.name: worker.state for worker in look.cluster.workers}
    lines = [Line("processes", "title")]
    shown = {called(one): one for one in look.servers}
    for name in sorted({*shown, *states}):
        one = shown.get(name)
        state = states.get(name) or ("ready" if one and one.ready else "not ready")
        figures = "" if one is None else f"{whole(one.connections):>8} connections{size(one.rss_bytes):>12}"
        lines.append(Line(f"  {plain(name, 24):24} {state:9}{figures}", "" if state == "ready" else "bad"))
    return lines


def _hot(one: Snapshot) -> list[Line]:
    rows = [Line(f"  {whole(hot.count):>8}  {hot.conv}") for hot in one.hot]
    return [Line("hot conversations: messages of the last minute", "title"), *rows] if rows else []


def _slow(one: Snapshot) -> list[Line]:
    rows = []
    for slow in one.slow:
        full = f", full for {duration(slow.full_s)}" if slow.full_s else ""
        behind = "+" if slow.behind else ""
        owed = f"{whole(slow.unacked)}{behind} unacknowledged, {size(slow.owed_bytes)} not taken{full}"
        rows.append(Line(f"  {slow.user or '(no hello yet)'} {slow.device}: {owed}", "bad" if slow.full_s else ""))
    return [Line("slow devices", "title"), *rows] if rows else []


def _shared(lists: Sequence[list[Line]], left: int) -> list[Line]:
    """The lists under each other, a blank line before each; where there is no room for all, the longest are cut."""
    sizes = [len(part) + 1 for part in lists]
    while sum(sizes) > left and max(sizes, default=0) > LIST_LINES_MIN:
        sizes[sizes.index(max(sizes))] -= 1
    lines: list[Line] = []
    for size_of, part in zip(sizes, lists, strict=True):
        if len(lines) + size_of <= left:
            lines += [Line(""), *part[: size_of - 1]]
    return lines


Paint = Callable[[Line], str]
_CODES: dict[Style, str] = {"title": "1", "good": "1;32", "bad": "1;31", "dim": "2"}


def painted(line: Line) -> str:
    """With the terminal's colours."""
    code = _CODES.get(line.style)
    return f"\x1b[{code}m{line.text}\x1b[0m" if code else line.text


def unpainted(line: Line) -> str:
    """Without."""
    return line.text
