"""Lines in and lines out: standard input without blocking the event loop, and text that no message can break."""

from __future__ import annotations

import asyncio
import os
import threading
import unicodedata
from collections.abc import AsyncIterator, Iterator
from datetime import datetime

LINE_BYTES_MAX = 1_048_576
READ_BYTES = 65_536
JOINERS = "\u200c\u200d"  # parts of words and of emoji


class Splitter:
    """Bytes in, lines out: without their ends, at most ``line_bytes_max`` long; of a longer one only its size."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._max = line_bytes_max
        self._held = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> Iterator[bytes | int]:
        """The lines that end in ``data``; an int: a line of so many bytes that was dropped."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._hold(part)
            yield from self.end(always=True)
        self._hold(rest)

    def end(self, *, always: bool = False) -> Iterator[bytes | int]:
        """The line that is held, ended or (at the end of the input) not."""
        held, dropped = bytes(self._held), self._dropped
        self._held.clear()
        self._dropped = 0
        if dropped:
            yield dropped
        elif held or always:
            yield held.removesuffix(b"\r")

    def _hold(self, part: bytes) -> None:
        if self._dropped or len(self._held) + len(part) > self._max:
            self._dropped += len(self._held) + len(part)
            self._held.clear()
        else:
            self._held += part


async def stdin_lines(fd: int = 0) -> AsyncIterator[bytes | int]:
    """The lines of standard input, whatever it is: a terminal, a pipe, a file. As `Splitter.feed` has them.

    A thread of its own reads, one piece at a time and only when it is asked to: it may wait in ``read`` for ever
    without holding up the loop or the end of the process. (Non-blocking mode would reach the terminal's output too.)
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(1)
    wanted = threading.Semaphore(0)

    def read() -> None:
        data = b"-"
        while data and wanted.acquire():
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:  # a terminal that went away: there is no more input
                data = b""
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, data)
            except RuntimeError:  # the loop ended meanwhile
                return

    threading.Thread(target=read, name="chatd-stdin", daemon=True).start()
    splitter = Splitter()
    while True:
        wanted.release()
        data = await pieces.get()
        for line in splitter.feed(data) if data else splitter.end():
            yield line
        if not data:
            return


def shown(text: str) -> str:
    """A body as one line of a terminal: nothing in it can move the cursor, colour, or turn the text around."""
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(c: str) -> bool:
    return c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def quoted(text: str, chars_max: int = 40) -> str:
    """The beginning of a body between quotation marks."""
    text = shown(text)
    return f'"{text if len(text) <= chars_max else text[: chars_max - 1] + "…"}"'


def clock(ts_ms: int, today: datetime) -> str:
    """Local time of a Unix ms: HH:MM, with the day before it unless that is ``today``."""
    when = datetime.fromtimestamp(ts_ms / 1000).astimezone()
    return when.strftime("%H:%M" if when.date() == today.date() else "%Y-%m-%d %H:%M")
