"""``chatd top`` in a real terminal: it looks, draws and listens to keys; what is drawn is `chatd.cli.screen`'s."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd.cli.looking import Look, look, must_be_there
from chatd.cli.screen import painted, screen, unpainted
from chatd.stats import History

ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
"""Shown at once where the terminal knows how; others take no notice."""
HOME, EMPTY_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[2K", "\x1b[J"
QUIT = b"qQ\x03\x04"


async def top(directory: Path, every_s: float) -> None:
    """Draw until q is pressed. A server that goes away is waited for. Raises: NoServer – there is none at the start."""
    first = must_be_there(await look(directory), directory)
    view = _View(first)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    fd = sys.stdin.fileno()
    with _full_screen(fd):
        loop.add_signal_handler(signal.SIGWINCH, view.draw)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
        loop.add_reader(fd, _on_key, fd, ended)
        watching = loop.create_task(_watch(directory, every_s, view))
        try:
            view.draw()
            waits = loop.create_task(ended.wait())
            done, _ = await asyncio.wait([waits, watching], return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            if watching in done:
                watching.result()  # it only ends by an error
        finally:
            watching.cancel()
            loop.remove_reader(fd)
            loop.remove_signal_handler(signal.SIGWINCH)


class _View:
    """What is on the screen."""

    def __init__(self, first: Look) -> None:
        self._history = History()
        self._seen = first
        self._seen_at_s = asyncio.get_running_loop().time()
        self._silent_s = 0.0
        self._paint = unpainted if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else painted
        self._history.add(first.servers)

    def saw(self, found: Look) -> None:
        """Another look. An empty one leaves the last one there, and says so."""
        now_s = asyncio.get_running_loop().time()
        if found.is_empty:
            self._silent_s = now_s - self._seen_at_s
        else:
            self._seen, self._seen_at_s, self._silent_s = found, now_s, 0.0
            self._history.add(found.servers)
        self.draw()

    def draw(self) -> None:
        """Draw the screen as large as the terminal is now."""
        width, height = _size()
        lines = screen(self._seen, self._history, width=width, height=height, silent_s=self._silent_s)
        text = "\n".join(EMPTY_LINE + self._paint(line) for line in lines)
        rest = f"\n{REST_OF_SCREEN}" if len(lines) < height else ""
        sys.stdout.write(BEGIN + HOME + text + rest + END)
        sys.stdout.flush()


def _size() -> tuple[int, int]:
    """Columns and lines; a terminal that does not know has 80 by 24."""
    try:
        width, height = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return width or 80, height or 24


async def _watch(directory: Path, every_s: float, view: _View) -> None:
    while True:
        await asyncio.sleep(every_s)
        view.saw(await look(directory))


def _on_key(fd: int, ended: asyncio.Event) -> None:
    keys = os.read(fd, 64)
    if not keys or any(key in QUIT for key in keys):  # nothing: the terminal is gone
        ended.set()


@contextmanager
def _full_screen(fd: int) -> Iterator[None]:
    """Another screen, no cursor, keys without Enter; all of it is taken back at the end, whatever it is."""
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        sys.stdout.write(ENTER)
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
