"""USER@URL on the command line: whose device this is, where its state lies, and how it logs in."""

from __future__ import annotations

import asyncio
import functools
import os
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

from chatd.cli.common import Failed, ask_password, read_line
from chatd.errors import Forbidden, StartError, Unauthenticated, Unavailable
from chatd.model import is_user

if TYPE_CHECKING:
    from chatd.client import Client

CLOSE_REVOKED = 4401
SCHEMES = ("http", "https", "ws", "wss")

OPTIONS = (
    click.argument("target", metavar="USER@URL"),
    click.option("--password-stdin", is_flag=True, help="The password is the first line of standard input."),
    click.option("--token", envvar="CHATD_TOKEN", help="A token instead of a password. Also: CHATD_TOKEN."),
    click.option("--register", is_flag=True, help="Create the user if it is not there yet."),
    click.option("--invite", help="Create the user with this invite."),
    click.option(
        "--state",
        type=click.Path(path_type=Path),
        help="File of this device. Default: one a user and server, in $XDG_STATE_HOME/chatd.",
    ),
)


class Account:
    """A user at a server, and the file of this device: token, unsent messages, positions."""

    def __init__(self, target: str, state: Path | None) -> None:
        user, _, url = target.partition("@")
        if not is_user(user) or urlsplit(url).scheme not in SCHEMES or not urlsplit(url).netloc:
            raise click.UsageError(f"{target}: not USER@URL, as alice@http://127.0.0.1:8080")
        self.user = user
        self.url = url.rstrip("/")
        self._state = state

    @property
    def state(self) -> Path:
        """The state file: one a user and server, below $XDG_STATE_HOME (~/.local/state), unless it was named."""
        if self._state is not None:
            return self._state
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        parts = urlsplit(self.url)
        return Path(base) / "chatd" / quote(f"{self.user}@{parts.netloc}{parts.path}", safe="@:[]")


def with_account(function: Callable[..., None]) -> Callable[..., None]:
    """The argument USER@URL and how to log in; the function gets an `Account` that has a token by then."""

    @functools.wraps(function)
    def run(
        target: str,
        state: Path | None,
        token: str | None,
        password_stdin: bool,
        register: bool,
        invite: str | None,
        **given: Any,
    ) -> None:
        account = Account(target, state)
        password = read_line() if password_stdin else os.environ.get("CHATD_PASSWORD")
        log_in(account, token=token, password=password, register=register, invite=invite)
        function(account, **given)

    wrapped: Callable[..., None] = run
    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def log_in(account: Account, *, token: str | None, password: str | None, register: bool, invite: str | None) -> None:
    """See to it that the state file holds a token; the password is asked for when none is given.

    Outside an event loop: it reads the terminal. Raises: Refusal; Unavailable – the server does not answer;
    StartError – the state file cannot be used; Failed.
    """
    try:
        account.state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise Failed(f"{account.state.parent}: {exc.strerror}; name another file with --state") from exc
    if token is not None:
        asyncio.run(_remember(account, token))
        return
    if asyncio.run(_has_token(account)):
        return
    asked = password is None
    if password is None:
        password = ask_password(
            f"Password of {account.user}", "use --password-stdin, --token, or CHATD_PASSWORD in the environment"
        )
    try:
        if invite is None:
            asyncio.run(_log_in(account, password))
            return
    except Unauthenticated as exc:
        if not register and not asked:
            raise Failed(f"{exc.message}; --register creates {account.user}") from exc
    if asked:
        again = ask_password(f"To create {account.user}, type it once more (empty: no)", "")
        if not again:
            raise Failed("wrong user name or password")
        if again != password:
            raise Failed("the two passwords differ; nothing was created")
    try:
        asyncio.run(_log_in(account, password, register=True, invite=invite))
    except Forbidden as exc:
        raise Failed(f"{account.user}: {exc.message}; if it is yours, the password is wrong") from exc
    click.echo(f"Created {account.user}.", err=True)


async def _log_in(account: Account, password: str, *, register: bool = False, invite: str | None = None) -> None:
    from chatd.client import Client

    try:
        await Client.login(
            account.url,
            account.user,
            password,
            device_name=f"terminal on {platform.node()}",
            register=register,
            invite=invite,
            store=account.state,
        )
    except Unavailable as exc:
        raise Failed(f"{exc.message}; is the server running there?") from exc


async def _has_token(account: Account) -> bool:
    from chatd.client.storage import Storage

    storage = Storage(account.state)
    try:
        await storage.open()
    except StartError as exc:
        raise StartError(f"{exc}; end it, or be another device with --state FILE") from exc
    try:
        return bool((await storage.identity()).get("token"))
    finally:
        await storage.close()


async def _remember(account: Account, token: str | None) -> None:
    from chatd.client.storage import Storage

    storage = Storage(account.state)
    await storage.open()
    try:
        await storage.remember(token=token)
    finally:
        await storage.close()


@asynccontextmanager
async def connected(account: Account) -> AsyncIterator[Client]:
    """The account's client, connected for as long as the body runs.

    Raises: Failed – the server does not want this device back. A revoked token is forgotten, so that the next start
    asks for the password.
    """
    from chatd.client import Client, Stopped

    try:
        async with Client(account.url, user=account.user, store=account.state) as client:
            yield client
    except Stopped as exc:
        if exc.code != CLOSE_REVOKED:
            raise Failed(f"{account.url} does not let {account.user} in: {exc.reason}") from exc
        await _remember(account, None)
        raise Failed(f"{account.url}: {exc.reason}; start again to log in, unsent messages are kept") from exc
