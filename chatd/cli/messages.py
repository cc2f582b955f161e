"""``chatd send`` and ``chatd tail``: messages for programs and pipes."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import click

from chatd.cli.account import Account, connected, with_account
from chatd.cli.common import Failed
from chatd.cli.lines import clock, shown
from chatd.model import is_user, peer_of

if TYPE_CHECKING:
    from chatd.client.events import LogEvent

STDIN_BYTES_MAX = 1_048_576
Wait = Literal["sent", "delivered", "read"]
TICKS = {"sent": "✓", "delivered": "✓✓", "read": "✓✓ read"}


@click.command()
@with_account
@click.argument("peer")
@click.argument("text", metavar="TEXT|-")
@click.option("--wait", type=click.Choice(["sent", "delivered", "read"]), default="sent", show_default=True)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for that; then exit code 1.")
def send(account: Account, peer: str, text: str, wait: Wait, timeout: float) -> None:
    """Send one message to PEER; - reads it from standard input. It ends when the message is stored for good."""
    if not is_user(peer):
        raise click.UsageError(f"{peer}: not the name of a user")
    asyncio.run(_send(account, peer, _stdin() if text == "-" else text, wait, timeout))


def _stdin() -> str:
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise Failed(f"standard input: more than {STDIN_BYTES_MAX} bytes")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise Failed("standard input: not UTF-8") from exc


async def _send(account: Account, peer: str, text: str, wait: Wait, timeout_s: float) -> None:
    async with connected(account) as client:
        handle = await client.send(peer, text)
        reached = "not sent"
        try:
            async with asyncio.timeout(timeout_s):
                sent = await handle.sent()
                reached = "sent, not yet delivered"
                if wait != "sent":
                    await handle.delivered()
                    reached = "delivered, not yet read"
                if wait == "read":
                    await handle.read()
        except TimeoutError as exc:
            kept = "; it is kept, and goes out with the next command of this device" if reached == "not sent" else ""
            raise Failed(f"{reached} after {timeout_s:g} s{kept}") from exc
    click.echo(f"{TICKS[wait]} {peer} {sent.seq}")


@click.command()
@with_account
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the text byte for byte.")
def tail(account: Account, as_json: bool) -> None:
    """Print every message as it comes, until ^C. What was printed counts as delivered, not as read."""
    asyncio.run(_tail(account, as_json))


async def _tail(account: Account, as_json: bool) -> None:
    from chatd.client import DisconnectedEvent, GoneEvent, MessageEvent

    async with connected(account) as client:
        away = False
        async for event in client.events():
            match event:
                case MessageEvent() | GoneEvent():
                    click.echo(_json(event) if as_json else message_line(event, account.user))
                case DisconnectedEvent() if not away:
                    click.echo(f"not connected: {event.reason}; trying again", err=True)
                    away = True
                case _:
                    away = away and isinstance(event, DisconnectedEvent)


def _json(event: LogEvent) -> str:
    from chatd.client import MessageEvent

    row: dict[str, object] = {"conv": event.conv, "seq": event.seq, "ts": event.ts}
    if isinstance(event, MessageEvent):
        row |= {"id": event.id, "from": event.sender, "body": event.body}
    else:
        row |= {"gone": event.gone}
    return json.dumps(row)


def message_line(event: LogEvent, me: str) -> str:
    """A message as a line: time, sender, text; an own one also says to whom."""
    from chatd.client import MessageEvent

    at, peer = clock(event.ts, datetime.now().astimezone()), peer_of(event.conv, me) or event.conv
    if not isinstance(event, MessageEvent):
        return f"{at} {peer}: ({event.gone})"
    return f"{at} {f'{me} → {peer}' if event.mine else event.sender}: {shown(event.body)}"
