"""A new file that is its owner's alone, and is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chatd.errors import StartError

PART = ".part"


@contextmanager
def new_file(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Gives a file to write and read, mode 0600, and its name until then, ``target``.part. The end names it ``target``.

    What an earlier one left as ``target``.part is thrown away; an error of the body leaves nothing.
    Raises: StartError – ``target`` is there, or somebody else has its part; OSError.
    """
    if os.path.lexists(target):
        raise StartError(f"{target} is there already and stays as it is; name another file")
    part = target.with_name(target.name + PART)
    try:
        with _held(part, target) as file:
            yield file, part
    except OSError as exc:
        if exc.filename is None:  # of a write, as on a full disk
            exc.filename = str(part)
        raise


@contextmanager
def _held(part: Path, target: Path) -> Iterator[BinaryIO]:
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "r+b") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise StartError(f"{part} belongs to somebody else, who could read {target}: delete it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StartError(f"{part}: another process writes it; wait for it, or name another file") from exc
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
        try:
            yield file
            file.flush()
            os.fsync(fd)
            _publish(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _publish(part: Path, target: Path) -> None:
    """Give it its name, unless that was taken meanwhile."""
    try:
        os.link(part, target)
    except FileExistsError as exc:
        raise StartError(f"{target} came to be meanwhile and stays as it is; name another file") from exc
    except OSError:  # a file system without links
        part.replace(target)
    part.unlink(missing_ok=True)
    sync(target.parent)


def sync(directory: Path) -> None:
    """Have the names in a directory on the disk. Raises: OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_or_make(path: Path, flags: int = 0) -> int:
    """Open a file for writing and reading, or make it with mode 0600. Gives: its descriptor. Raises: OSError.

    What root makes is given to whom the directory belongs to, who could not use it otherwise.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)
    if os.geteuid() == 0:
        about = path.parent.stat()
        os.fchown(fd, about.st_uid, about.st_gid)
    return fd
