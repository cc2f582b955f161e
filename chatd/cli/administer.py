"""``chatd user`` and ``chatd token``: through the running server, or on its store when none runs."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from chatd.cli.common import Failed, load_settings, new_password, place_options, program
from chatd.errors import InUse, StartError
from chatd.settings import Settings

USERS_PAGE_MAX = 1_000

as_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
password_stdin = click.option(
    "--password-stdin", is_flag=True, help="The password is the first line of standard input."
)


class Place:
    """One data directory; `call` runs a verb of `chatd.admin` for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = Path(settings.server.data_dir)
        if settings.store.kind == "memory":
            raise Failed("store.kind is memory: there are no accounts outside its server")
        if not self.directory.is_dir():
            raise Failed(f"no data directory {self.directory}: name it with --data-dir, or make it with `chatd init`")

    def call(self, verb: str, **args: Any) -> Any:
        """Returns plain values. Raises: Refusal; StartError – the directory cannot be used."""
        return asyncio.run(self._call(verb, args))

    async def _call(self, verb: str, args: dict[str, Any]) -> Any:
        async with self.opened() as call:
            return await call(verb, **args)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
        """For several verbs: what calls them, each with its arguments by name. Raises: as `call`."""
        from chatd import admin
        from chatd.app import Server

        server, held = Server(self.settings), None
        try:
            await server.open()
        except StartError as exc:
            held = self.directory / admin.SOCKET_NAME
            if not held.exists() or not isinstance(exc, InUse):
                raise
        if held is not None:
            socket = held
            yield lambda verb, **args: admin.call(socket, verb, args)
            return
        try:
            if server.exchange is not None:  # so that the processes that serve hear of it
                await server.exchange.open_to_tell()
            yield lambda verb, **args: admin.run(server.administered, verb, args)
        finally:
            await server.stop()


def with_place(function: Callable[..., None]) -> Callable[..., None]:
    """The options that name a data directory; ``function`` gets its `Place` first."""

    @functools.wraps(function)
    def run(config: Path | None, data_dir: str | None, **given: Any) -> None:
        function(Place(load_settings(config, data_dir)), **given)

    return place_options(run)


@click.group()
def user() -> None:
    """Administer users, whether or not the server runs."""


@click.group()
def token() -> None:
    """Administer devices and their tokens, whether or not the server runs."""


@user.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="An administrator.")
@click.option("--no-password", is_flag=True, help="For a program: it can only be given tokens.")
@password_stdin
@with_place
def add(place: Place, name: str, admin: bool, no_password: bool, password_stdin: bool) -> None:
    """Create a user. The password is asked for."""
    password = None if no_password else new_password(name, from_stdin=password_stdin)
    place.call("add_user", user=name, password=password, admin=admin)
    click.echo(f"{name} is there.")


@user.command("list")
@as_json
@with_place
def list_users(place: Place, as_json: bool) -> None:
    """List the users."""
    rows: list[dict[str, Any]] = []
    while page := place.call("list_users", after=rows[-1]["user"] if rows else "", limit=USERS_PAGE_MAX):
        rows += page
        if len(page) < USERS_PAGE_MAX:
            break
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        flags = ("admin" * row["admin"], "disabled" * row["disabled"], "" if row["has_password"] else "no password")
        _row((row["user"], _when(row["created_ms"]), ", ".join(flag for flag in flags if flag)))


@user.command()
@click.argument("name")
@password_stdin
@with_place
def passwd(place: Place, name: str, password_stdin: bool) -> None:
    """Set a user's password, and log all of its devices out."""
    place.call("set_password", user=name, password=new_password(name, from_stdin=password_stdin))
    click.echo(f"{name} has a new password; all of its devices are logged out.")


@user.command()
@click.argument("name")
@with_place
def disable(place: Place, name: str) -> None:
    """Lock a user out, now; nothing of it is lost."""
    place.call("disable", user=name)
    click.echo(f"{name} is locked out.")


@user.command()
@click.argument("name")
@with_place
def enable(place: Place, name: str) -> None:
    """Let a disabled user in again."""
    place.call("enable", user=name)
    click.echo(f"{name} may come in again.")


@user.command()
@click.argument("name")
@with_place
def promote(place: Place, name: str) -> None:
    """Make a user an administrator."""
    place.call("promote", user=name)
    click.echo(f"{name} is an administrator.")


@user.command()
@click.argument("name")
@with_place
def demote(place: Place, name: str) -> None:
    """Make an administrator a user like others, now."""
    place.call("demote", user=name)
    click.echo(f"{name} is no administrator.")


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_place
def delete(place: Place, name: str, yes: bool) -> None:
    """Delete a user for ever: its messages stay, and nobody can take its name again."""
    if not yes:
        if not sys.stdin.isatty():
            raise Failed(f"deleting {name} cannot be undone, and there is no terminal to ask: say --yes")
        click.confirm(f"Delete {name} for ever?", abort=True)
    place.call("delete_user", user=name)
    click.echo(f"{name} is deleted.")


@user.command()
@click.option("--admin", is_flag=True, help="Who uses it becomes an administrator.")
@click.option("--hours", default=72, show_default=True, help="How long it is good.")
@as_json
@with_place
def invite(place: Place, admin: bool, hours: int, as_json: bool) -> None:
    """Make an invite with which one person may register."""
    code = place.call("create_invite", admin=admin, hours=hours)
    if as_json:
        click.echo(json.dumps({"invite": code, "hours": hours, "admin": admin}))
        return
    click.echo(code)
    click.echo(
        f"Good once, within {hours} h: open URL-OF-THE-SERVER/join#{code}, "
        f"or say {program()} chat NAME@URL-OF-THE-SERVER --invite {code}",
        err=True,
    )


@token.command()
@click.argument("user")
@click.option("--name", default="", help="What the device is called.")
@click.option("--days", type=int, help="How long it lives; 0: until revoked. Default: accounts.token_days.")
@as_json
@with_place
def issue(place: Place, user: str, name: str, days: int | None, as_json: bool) -> None:
    """Make a token for a new device of a user, and print it: it is not shown again."""
    made = place.call("issue_token", user=user, name=name, days=days)
    click.echo(json.dumps({"user": user, "token": made}) if as_json else made)


@token.command("list")
@click.argument("user")
@as_json
@with_place
def list_tokens(place: Place, user: str, as_json: bool) -> None:
    """List a user's devices, each with its token; the tokens themselves are not known to the server."""
    rows = place.call("tokens", user=user)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        until = f"until {_when(row['expires_ms'])}" if row["expires_ms"] is not None else "until revoked"
        _row((row["device"], _when(row["created_ms"]), until, row["name"]))


@token.command()
@click.argument("user")
@click.argument("device")
@with_place
def revoke(place: Place, user: str, device: str) -> None:
    """End a device and its token; its open connections close."""
    place.call("revoke", user=user, device=device)
    click.echo(f"{user}'s device {device} is logged out.")


def _row(cells: Iterable[str]) -> None:
    click.echo("  ".join(cells).rstrip())


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
