"""``chatd chat``: a conversation in the terminal, line by line; it works the same over pipes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from chatd.cli.account import Account, connected, with_account
from chatd.cli.common import Failed
from chatd.cli.lines import clock, quoted, shown, stdin_lines
from chatd.cli.messages import TICKS, message_line
from chatd.errors import Refusal
from chatd.model import conv_of, is_user, peer_of
from chatd.protocol import new_message_id

if TYPE_CHECKING:
    from chatd.client import Client, Event, Handle, MessageEvent, PresenceEvent

UNSENT_MESSAGES_MAX = 1_000
OWN_MESSAGES_MAX = 1_000
ASK_S = 5.0
LEAVE_S = 10.0
HISTORY_ITEMS = 20
HELP = """\
/to NAME       write to NAME from now on
/list          conversations, newest first
/history [N]   the last N messages with whom you write to (1 to 200)
/quit          leave; so does the end of the input (^D)
//TEXT         a message that begins with /
✓ sent   ✓✓ delivered   ✓✓ read"""


@click.command()
@with_account
@click.option("--to", help="Whom to write to; /to NAME changes it.")
def chat(account: Account, to: str | None) -> None:
    """Talk in the terminal: a line is a message, /help tells the rest.

    The first time it asks for the password, and offers to create the user; the token, unsent messages and what was
    shown are kept in a file for the next time.
    """
    if to is not None and not is_user(to):
        raise click.UsageError(f"{to}: not the name of a user")
    asyncio.run(_chat(account, to))


async def _chat(account: Account, to: str | None) -> None:
    async with connected(account) as client:
        await Chat(client, account.user, to).run()


@dataclass
class Own:
    """A sent message of this run, as long as the peer is not known to have read it."""

    seq: int
    text: str
    delivered: bool = False


class Chat:
    """One terminal and one client. Of each conversation it follows the last ``OWN_MESSAGES_MAX`` own messages."""

    def __init__(self, client: Client, me: str, to: str | None) -> None:
        self._client = client
        self._me = me
        self._to = to
        self._away = False
        self._kept = client.unsent
        self._kept_answered = asyncio.Event()
        self._typed: set[str] = set()  # ids that the server has not answered yet
        self._unsent: asyncio.Queue[tuple[Handle, str, str]] = asyncio.Queue(UNSENT_MESSAGES_MAX)
        self._own: dict[str, deque[Own]] = {}  # conv → own messages that are not known to be read

    async def run(self) -> None:
        """Until /quit or the end of the input. Raises: Stopped; Failed – messages are left unsent."""
        if self._kept:
            _say(f"{_count(len(self._kept))} of last time still unsent: on the way")
        _say(f"you write to {self._to}; /help tells the rest" if self._to else "/to NAME begins; /help tells the rest")
        if self._to:
            self._watch(self._to)
        tasks = [asyncio.create_task(work) for work in (self._read_input(), self._show_events(), self._await_sent())]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            await self._leave(tasks[1:])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _leave(self, working: list[asyncio.Task[None]]) -> None:
        """Wait for what is unsent, up to a bound; the tasks that get it sent go on meanwhile."""
        emptied = asyncio.create_task(self._unsent_answered())
        try:
            ended, _ = await asyncio.wait([emptied, *working], timeout=LEAVE_S, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            emptied.cancel()
        if left := len(self._client.unsent):
            raise Failed(f"{_count(left)} not sent; kept for the next time")

    async def _unsent_answered(self) -> None:
        await self._kept_answered.wait()
        await self._unsent.join()

    # --- what is typed ---

    async def _read_input(self) -> None:
        async for line in stdin_lines():
            if isinstance(line, int):
                _say(f"✗ a line of {line} bytes: not sent")
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError:
                _say("✗ not UTF-8: not sent")
                continue
            try:
                if text.startswith("/") and not text.startswith("//"):
                    command, _, argument = text[1:].partition(" ")
                    if command == "quit":
                        return
                    await self._command(command, argument.strip())
                elif text.strip():
                    await self._send(text.removeprefix("/") if text.startswith("//") else text)
            except Refusal as exc:
                _say(f"✗ {exc.message}")

    async def _command(self, command: str, argument: str) -> None:
        match command:
            case "help":
                _say(HELP)
            case "to" if is_user(argument):
                self._write_to(argument)
            case "to":
                _say("✗ /to NAME: a name has 1 to 64 of a-z 0-9 . _ -")
            case "list":
                for row in (await self._client.conversations(limit=HISTORY_ITEMS, timeout=ASK_S)).conversations:
                    last = quoted(row.last.body) if row.last is not None and row.last.body is not None else ""
                    _say(f"{row.peer}  {row.unread} unread  {last}")
                _say(f"{self._client.badge} unread in all")
            case "history":
                await self._history(argument or str(HISTORY_ITEMS))
            case _:
                _say(f"✗ /{shown(command)} is no command; /help has them all, // begins a message with /")

    async def _history(self, argument: str) -> None:
        if self._to is None:
            _say("✗ with whom? /to NAME first")
        elif not (argument.isdecimal() and 1 <= int(argument) <= 200):
            _say("✗ /history N: 1 to 200")
        else:
            page = await self._client.history(conv_of(self._me, self._to), limit=int(argument), timeout=ASK_S)
            for entry in page.entries:
                _say(message_line(entry, self._me))

    async def _send(self, text: str) -> None:
        if self._to is None:
            _say("✗ to whom? /to NAME first")
            return
        message_id = new_message_id()
        self._typed.add(message_id)  # before it can come back
        try:
            handle = await self._client.send(self._to, text, id=message_id)
        except Refusal:
            self._typed.discard(message_id)
            raise
        await self._unsent.put((handle, self._to, text))

    # --- what comes ---

    async def _await_sent(self) -> None:
        """Tell the answer to each message, in the order of typing; those of last time come back as messages."""
        for handle in self._kept:
            try:
                await handle.sent()
            except Refusal as exc:
                _say(f"✗ a message of last time was not sent: {exc.message}")
        self._kept_answered.set()
        while True:
            handle, peer, text = await self._unsent.get()
            try:
                sent = await handle.sent()
            except Refusal as exc:
                self._typed.discard(handle.id)
                _say(f"✗ {peer}: {quoted(text)} was not sent: {exc.message}")
            else:
                _say(f"{TICKS['sent']} {peer}: {quoted(text)}")
                own = self._own.setdefault(sent.conv, deque(maxlen=OWN_MESSAGES_MAX))
                own.append(Own(sent.seq, text))
                self._tell_marks(sent.conv)  # the receipt may have been faster
            self._unsent.task_done()

    async def _show_events(self) -> None:
        async for event in self._client.events():
            await self._show(event)

    async def _show(self, event: Event) -> None:
        from chatd import client

        match event:
            case client.MessageEvent():
                await self._show_message(event)
            case client.GoneEvent():
                await self._client.mark_read(event.conv, event.seq)
            case client.ReceiptEvent():
                self._tell_marks(event.conv)
            case client.PresenceEvent() if event.user == self._to:
                _say(presence_line(event))
            case client.TypingEvent() if event.user == self._to and event.on:
                _say(f"{event.user} is typing …")
            case client.ConnectedEvent():
                _say(f"connected as {event.user}")
                self._away = False
            case client.DisconnectedEvent() if not self._away:
                _say(f"not connected: {event.reason}; trying again, what you write is kept")
                self._away = True
            case client.ResetEvent():
                _say("the server's history is another one: it is shown from its beginning")
                self._own.clear()

    async def _show_message(self, event: MessageEvent) -> None:
        if event.mine:
            if event.id not in self._typed:  # from another device, or from before
                _say(message_line(event, self._me))
            self._typed.discard(event.id)
            return
        _say(message_line(event, self._me))
        await self._client.mark_read(event.conv, event.seq)
        if self._to is None:
            self._write_to(event.sender)

    def _write_to(self, peer: str) -> None:
        """From now on; what is known of them is told, and what becomes of it."""
        self._to = peer
        _say(f"you write to {peer}")
        self._watch(peer)

    def _watch(self, peer: str) -> None:
        self._client.watch(peer)
        known = self._client.presence(peer)
        if known is not None:
            _say(presence_line(known))

    def _tell_marks(self, conv: str) -> None:
        """One line when the peer got or read more: the newest message that it holds for, and how many before it."""
        own, marks = self._own.get(conv), self._client.marks(conv).peer
        if not own:
            return
        peer = peer_of(conv, self._me) or conv
        if read := [message for message in own if message.seq <= marks.read]:
            _say(_mark_line(TICKS["read"], peer, read))
            for message in read:
                own.remove(message)
        if delivered := [message for message in own if message.seq <= marks.delivered and not message.delivered]:
            _say(_mark_line(TICKS["delivered"], peer, delivered))
            for message in delivered:
                message.delivered = True


def _mark_line(ticks: str, peer: str, messages: list[Own]) -> str:
    more = f" and {len(messages) - 1} before it" if len(messages) > 1 else ""
    return f"{ticks} {peer}: {quoted(messages[-1].text)}{more}"


def presence_line(event: PresenceEvent) -> str:
    """How somebody is there, as a line."""
    if event.last_seen is None:
        return f"{event.user} is {event.state}"
    return f"{event.user} is offline, last seen {clock(event.last_seen, datetime.now().astimezone())}"


def _count(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"


def _say(line: str) -> None:
    click.echo(line)
