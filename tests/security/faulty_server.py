"""``chatd`` with faults in it, for the log: a body with one of the words makes the server fail where the word says."""

from __future__ import annotations

import sys
from typing import Any

from chatd import connection, sending
from chatd.cli import main
from chatd.transport import handlers

make_draft = sending.make_draft
live = connection.Connection.live


def failing(**given: Any) -> Any:
    if "fail-in-draft" in given["body"]:
        raise RuntimeError("a fault that nobody foresaw")
    return make_draft(**given)


def failing_live(self: connection.Connection, message: Any, payload: bytes) -> None:
    if "fail-in-fan-out" in message.body:
        raise RuntimeError("another one")
    live(self, message, payload)


async def failing_watch(self: connection.Connection, frame: Any) -> None:
    raise RuntimeError("in a task")


if __name__ == "__main__":
    connection.make_draft = failing  # type: ignore[attr-defined]
    handlers.make_draft = failing  # type: ignore[attr-defined]
    connection.Connection.live = failing_live  # type: ignore[method-assign]
    connection.Connection._watch = failing_watch  # type: ignore[method-assign]
    main(sys.argv[1:])
