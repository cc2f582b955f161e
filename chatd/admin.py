"""Administration of a running server: its verbs over a unix socket in the data directory, mode 0600.

Who can open the socket owns the data anyway, so it asks for no token. The same table of verbs runs directly on an
opened store when no server runs.

``POST /call`` {verb, args} → 200 {result}, or 400 {code, message, retry_after_ms?}.
"""

from __future__ import annotations

import inspect
import os
import socket
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct

from chatd.accounts import Accounts
from chatd.errors import REFUSALS, BadFrame, InternalError, Refusal, StartError, Unavailable, Unsupported
from chatd.push.service import Push
from chatd.push.subscriptions import Subscriptions

SOCKET_NAME = "admin.sock"
PATH_BYTES_MAX = 103
"""The longest path of a unix socket that every system takes."""
CALL_TIMEOUT_S = 60.0

VERBS: Mapping[str, Callable[..., Awaitable[Any]]] = {
    "add_user": Accounts.add_user,
    "list_users": Accounts.list_users,
    "set_password": Accounts.set_password,
    "disable": Accounts.disable,
    "enable": Accounts.enable,
    "delete_user": Accounts.delete_user,
    "issue_token": Accounts.issue_token,
    "tokens": Accounts.tokens,
    "revoke": Accounts.revoke,
    "create_invite": Accounts.create_invite,
    "push_kinds": Subscriptions.kinds,
    "push_test": Push.test,
}
"""Verb → the method with its parameters, which are the arguments of the verb."""


class Call(Struct, frozen=True):
    """A verb and its arguments by name."""

    verb: str
    args: dict[str, Any] = {}


class _Answer(Struct, frozen=True, omit_defaults=True):
    """``result`` of a verb that ran, or the refusal: ``code``, ``message`` and perhaps ``retry_after_ms``."""

    result: Any = None
    code: str | None = None
    message: str = ""
    retry_after_ms: int | None = None


def _parameters(method: Callable[..., Any]) -> type[Struct]:
    hints = typing.get_type_hints(method)
    given = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
    fields = [(p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default) for p in given]
    return msgspec.defstruct(f"{method.__name__}_args", fields, kw_only=True, forbid_unknown_fields=True)


_PARAMETERS = {verb: _parameters(method) for verb, method in VERBS.items()}


class Administered(Struct, frozen=True):
    """What the verbs work on."""

    accounts: Accounts
    subscriptions: Subscriptions
    push: Push


async def run(administered: Administered, verb: str, args: Mapping[str, Any]) -> Any:
    """Run a verb. Returns plain values (dicts, lists, strings, numbers, None).

    Raises: Unsupported – no such verb. BadFrame – arguments that it does not take. What the method raises.
    """
    if verb not in VERBS:
        raise Unsupported(f"unknown verb {verb[:64]!a}")
    try:
        parameters = msgspec.convert(dict(args), _PARAMETERS[verb])
    except msgspec.ValidationError as exc:
        raise BadFrame(f"{verb}: {exc}") from exc
    method = VERBS[verb]
    parts = msgspec.structs.astuple(administered)
    owner = next(one for one in parts if getattr(type(one), method.__name__, None) is method)
    return msgspec.to_builtins(await method(owner, **msgspec.structs.asdict(parameters)))


def admin_app(administered: Administered) -> web.Application:
    """The server's half, to be served on the socket and nowhere else."""

    async def call(request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=Call)
            answer = _Answer(result=await run(administered, wanted.verb, wanted.args))
        except msgspec.DecodeError as exc:
            answer = _Answer(code=BadFrame.code, message=str(exc))
        except Refusal as exc:
            answer = _Answer(code=exc.code, message=exc.message, retry_after_ms=exc.retry_after_ms)
        return web.Response(
            status=200 if answer.code is None else 400,
            body=msgspec.json.encode(answer),
            content_type="application/json",
        )

    app = web.Application()
    app.router.add_post("/call", call)
    return app


@asynccontextmanager
async def serving(administered: Administered, socket_path: Path) -> AsyncIterator[None]:
    """Serve the verbs on ``socket_path`` meanwhile; the caller owns its directory, so a socket there is a stale one.

    Raises: StartError – the path is too long for a unix socket, or cannot be made.
    """
    sock = _bound(socket_path)
    runner = web.AppRunner(admin_app(administered), access_log=None, handle_signals=False)
    try:
        await runner.setup()
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()
        sock.close()
        _remove(socket_path)


async def call(socket_path: Path, verb: str, args: Mapping[str, Any]) -> Any:
    """Run a verb in the server that listens on ``socket_path``; what it returns and raises is that of `run`.

    Raises: Unavailable – no server listens there, or it ended meanwhile.
    """
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
    try:
        connector = aiohttp.UnixConnector(_short(socket_path))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            # The host in the URL is a name for the Host header: the connector knows one socket.
            body = msgspec.json.encode(Call(verb, dict(args)))
            async with session.post("http://chatd/call", data=body) as response:
                answer = msgspec.json.decode(await response.read(), type=_Answer)
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Unavailable(f"no server answers at {socket_path}: {exc}") from exc
    except msgspec.DecodeError as exc:
        raise InternalError("the server failed; its log says why") from exc
    if answer.code is not None:
        raise REFUSALS.get(answer.code, InternalError)(answer.message, retry_after_ms=answer.retry_after_ms)
    return answer.result


def _short(path: Path) -> str:
    """The path, or the shorter way to it from here: unix sockets take only some hundred bytes."""
    short = min(str(path), os.path.relpath(path), key=len)
    if len(os.fsencode(short)) > PATH_BYTES_MAX:
        raise StartError(f"{path}: longer than the {PATH_BYTES_MAX} bytes that a unix socket's path may have")
    return short


def _bound(path: Path) -> socket.socket:
    short = _short(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        sock.bind(short)
        path.chmod(0o600)  # nobody could connect before: it does not listen yet
    except OSError as exc:
        sock.close()
        raise StartError(f"{path}: {exc.strerror or exc}") from exc
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
