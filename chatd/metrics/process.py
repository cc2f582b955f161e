"""What the process takes of its machine. Cheap to ask: a list of very many open files would hold up the loop."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

STARTED_S = time.time()
FILES = Path("/proc/self/fd")


def resident_bytes() -> float:
    """Resident memory; 0: this system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0.0
    return float(pages * resource.getpagesize())


def cpu_seconds() -> float:
    """User and system time of all threads."""
    return time.process_time()


def open_files() -> float:
    """Open files; 0: this system does not tell. Linux 6.2 and later say how many there are without a list of them."""
    try:
        return float(FILES.stat().st_size or len(os.listdir(FILES)))
    except OSError:
        return 0.0


def open_files_max() -> float:
    """The limit of them; ∞: there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)


def started_s() -> float:
    """When it began, Unix time."""
    return STARTED_S
