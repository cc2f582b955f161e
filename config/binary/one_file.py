"""The one-file form is two processes: the first unpacks, starts the second, which is chatd, and passes signals on.

So ^C reaches chatd twice: from the terminal, which signals both, and from its parent. And whoever kills the parent for
good leaves chatd behind. Here each is put right: of such a pair one signal counts, and an orphan ends in order.
"""

from __future__ import annotations

import _thread
import atexit
import os
import shutil
import signal
import sys
import threading
import time

UNPACKED = "_PYI_APPLICATION_HOME_DIR"
"""The unpacking process says there where it unpacked to; the one-folder form has no such process."""
PREPARED = "_CHATD_ONE_FILE"
"""Tells the workers of `chatd cluster` that their parent is chatd itself."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
POKE = signal.SIGURG
TWIN_S = 1.0
"""A signal and its copy by way of the parent are that far apart at most."""
LOOK_S = 1.0


def prepare() -> None:
    """Call it first, in the main thread."""
    # LD_LIBRARY_PATH stays: the only program that chatd starts is chatd, which does not set it a second time.
    if UNPACKED not in os.environ:
        return
    if PREPARED in os.environ:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what the parent blocks below came along
        return
    os.environ[PREPARED] = "1"
    signal.signal(POKE, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # every thread inherits it: the watch alone takes them
    watch = threading.Thread(target=_watch, args=(os.getppid(), threading.get_ident()), name="signals", daemon=True)
    watch.start()


def _watch(parent: int, main: int) -> None:
    last_s: dict[tuple[int, bool], float] = {}
    while True:
        taken = signal.sigtimedwait(SIGNALS, LOOK_S)
        if taken is None:
            if parent and os.getppid() != parent:
                parent = 0
                atexit.register(shutil.rmtree, getattr(sys, "_MEIPASS", ""), ignore_errors=True)
                _pass_on(signal.SIGTERM, main)
            continue
        by_parent = taken.si_pid == parent
        now_s = time.monotonic()
        if now_s - last_s.pop((taken.si_signo, not by_parent), -TWIN_S) < TWIN_S:
            continue
        last_s[taken.si_signo, by_parent] = now_s
        _pass_on(signal.Signals(taken.si_signo), main)


def _pass_on(number: signal.Signals, main: int) -> None:
    """As if the signal had reached the main thread."""
    handler = signal.getsignal(number)
    if handler is signal.SIG_DFL:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    elif handler is not signal.SIG_IGN:
        _thread.interrupt_main(number)
        signal.pthread_kill(main, POKE)  # a read of the terminal looks up from its work
