"""``chatd serve`` whose kernel fails every fsync from SIGUSR1 on: the fault is below SQLite, and cannot be undone.

A seccomp filter does it, so it needs no compiler, no privilege and no special file system.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import struct
import sys

from chatd.cli import main

FSYNCS = {"x86_64": (0xC000003E, 74, 75, 317), "aarch64": (0xC00000B7, 82, 83, 277)}  # arch, fsync, fdatasync, seccomp
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000


class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def fail_fsyncs(*_: object) -> None:
    """From now on, in all threads, fsync and fdatasync answer EIO."""
    arch, fsync, fdatasync, seccomp = FSYNCS[platform.machine()]
    load, jump_equal, give = 0x20, 0x15, 0x06
    steps = [
        (load, 0, 0, 4),  # the architecture
        (jump_equal, 0, 4, arch),
        (load, 0, 0, 0),  # the number of the call
        (jump_equal, 1, 0, fsync),
        (jump_equal, 0, 1, fdatasync),
        (give, 0, 0, RET_ERRNO | errno.EIO),
        (give, 0, 0, RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program)
    ):
        sys.exit(f"no seccomp filter: {errno.errorcode[ctypes.get_errno()]}")
    sys.stderr.write("fsync fails from now on\n")
    sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, fail_fsyncs)
    main()
