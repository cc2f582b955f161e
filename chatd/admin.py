"""Administration of a running server: its verbs over a unix socket in the data directory, mode 0600.

Who can open the socket owns the data anyway, so it asks for no token. The same table of verbs runs directly on an
opened store when no server runs, but for those of a running one. Processes that share a store may share the directory:
each has a socket of its own there, ``admin*.sock``.

``POST /call`` {verb, args} → 200 {result}, or 400 {code, message, retry_after_ms?}.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import secrets
import socket
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct

from chatd.accounts import Accounts
from chatd.errors import REFUSALS, BadFrame, Forbidden, InternalError, Refusal, StartError, Unavailable, Unsupported
from chatd.exporting import Exporting
from chatd.operations import Operations
from chatd.push.service import Push
from chatd.push.subscriptions import Subscriptions

STEM = "admin"
SOCKET_NAME = f"{STEM}.sock"
SOCKETS_MAX = 512
PATH_BYTES_MAX = 103
"""The longest path of a unix socket that every system takes."""
CALL_TIMEOUT_S = 60.0

VERBS: Mapping[str, Callable[..., Awaitable[Any]]] = {
    "add_user": Accounts.add_user,
    "list_users": Accounts.list_users,
    "set_password": Accounts.set_password,
    "disable": Accounts.disable,
    "enable": Accounts.enable,
    "promote": Accounts.promote,
    "demote": Accounts.demote,
    "delete_user": Accounts.delete_user,
    "erase_user": Accounts.erase_user,
    "issue_token": Accounts.issue_token,
    "tokens": Accounts.tokens,
    "revoke": Accounts.revoke,
    "create_invite": Accounts.create_invite,
    "export_account": Exporting.export_account,
    "export_conversations": Exporting.export_conversations,
    "export_marks": Exporting.export_marks,
    "export_messages": Exporting.export_messages,
    "push_kinds": Subscriptions.kinds,
    "push_test": Push.test,
    "status": Operations.status,
    "connected": Operations.connected,
    "drain": Operations.drain,
}
"""Verb → the method with its parameters, which are the arguments of the verb."""


class Silent(Unavailable):
    """A server listens there, and did not answer in time."""


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


@cache
def _parameters(method: Callable[..., Any]) -> type[Struct]:
    hints = typing.get_type_hints(method)
    given = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
    fields = [(p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default) for p in given]
    return msgspec.defstruct(f"{method.__name__}_args", fields, kw_only=True, forbid_unknown_fields=True)


class Administered(Struct, frozen=True):
    """What the verbs work on. ``operations``: of the server that runs; None: none does."""

    accounts: Accounts
    subscriptions: Subscriptions
    push: Push
    exporting: Exporting
    operations: Operations | None = None


Verbs = Mapping[str, Callable[..., Awaitable[Any]]]
OnDone = Callable[[str, Mapping[str, Any]], None]
"""Hears the verb and the arguments of each call that was done."""


def nobody(verb: str, args: Mapping[str, Any]) -> None:
    """An `OnDone` that listens to nothing."""


async def run(administered: Struct, verb: str, args: Mapping[str, Any], verbs: Verbs = VERBS) -> Any:
    """Run a verb on the part of ``administered`` whose method it is. Returns plain values (dicts, lists, strings …).

    Raises: Unsupported – no such verb. BadFrame – arguments that it does not take. Unavailable – it needs a running
        server. What the method raises.
    """
    if verb not in verbs:
        raise Unsupported(f"unknown verb {verb[:64]!a}")
    method = verbs[verb]
    try:
        parameters = msgspec.convert(dict(args), _parameters(method))
    except msgspec.ValidationError as exc:
        raise BadFrame(f"{verb}: {exc}") from exc
    parts = msgspec.structs.astuple(administered)
    owner = next((one for one in parts if getattr(type(one), method.__name__, None) is method), None)
    if owner is None:
        raise Unavailable(f"{verb}: no server runs here")
    return msgspec.to_builtins(await method(owner, **msgspec.structs.asdict(parameters)))


def admin_app(administered: Struct, verbs: Verbs = VERBS, on_done: OnDone = nobody) -> web.Application:
    """The server's half, to be served on the socket and nowhere else."""

    async def call(request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=Call)
            answer = _Answer(result=await run(administered, wanted.verb, wanted.args, verbs))
            on_done(wanted.verb, wanted.args)
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
async def serving(
    administered: Struct, socket_path: Path, verbs: Verbs = VERBS, on_done: OnDone = nobody
) -> AsyncIterator[None]:
    """Serve the verbs on ``socket_path`` meanwhile; the caller owns its directory, so a socket there is a stale one.

    Raises: StartError – the path is too long for a unix socket, or cannot be made.
    """
    async with _serving(administered, _bound(socket_path), socket_path, verbs, on_done):
        yield


@asynccontextmanager
async def serving_beside(
    administered: Struct, directory: Path, stem: str, verbs: Verbs = VERBS, on_done: OnDone = nobody
) -> AsyncIterator[Path]:
    """The same as ``stem``.sock in a directory that others may use as well; it is made if it is not there.

    Gives: the path. Whose name is taken by a process that lives gets a longer one. Raises: StartError.
    """
    path, sock = await asyncio.to_thread(_bound_beside, directory, stem)
    async with _serving(administered, sock, path, verbs, on_done):
        yield path


@asynccontextmanager
async def _serving(
    administered: Struct, sock: socket.socket, path: Path, verbs: Verbs, on_done: OnDone
) -> AsyncIterator[None]:
    runner = web.AppRunner(admin_app(administered, verbs, on_done), access_log=None, handle_signals=False)
    try:
        await runner.setup()
        await web.SockSite(runner, sock).start()
        yield
    finally:
        _remove(path)  # while it listens: later it could be the name of another process's socket
        await runner.cleanup()
        sock.close()


def sockets(directory: Path) -> list[Path]:
    """The sockets in a data directory, by name, whether or not somebody listens; at most `SOCKETS_MAX`."""
    return sorted(path for path in directory.glob(f"{STEM}*.sock") if path.is_socket())[:SOCKETS_MAX]


async def ask(
    directory: Path, verb: str, args: Mapping[str, Any], *, timeout_s: float, but: Path | None = None
) -> dict[str, Any]:
    """Run a verb in every server that has a socket in ``directory``, ``but`` one, all at the same time.

    Returns: by the socket's name, what the verb returned, or the Refusal. Where nobody listens there is no entry.
    """

    async def one(path: Path) -> Any:
        try:
            return await call(path, verb, args, timeout_s=timeout_s)
        except Refusal as exc:
            return exc if isinstance(exc, Silent) or not isinstance(exc, Unavailable) else None

    paths = [path for path in await asyncio.to_thread(sockets, directory) if path != but]
    answers = await asyncio.gather(*map(one, paths))
    return {path.name: answer for path, answer in zip(paths, answers, strict=True) if answer is not None}


async def call(socket_path: Path, verb: str, args: Mapping[str, Any], *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """Run a verb in the server that listens on ``socket_path``; what it returns and raises is that of `run`.

    Raises: Unavailable – no server listens there, or it ended meanwhile. Silent – it did not answer in time.
        Forbidden – it is another user's.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        connector = aiohttp.UnixConnector(_short(socket_path))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            # The host in the URL is a name for the Host header: the connector knows one socket.
            body = msgspec.json.encode(Call(verb, dict(args)))
            async with session.post("http://chatd/call", data=body) as response:
                answer = msgspec.json.decode(await response.read(), type=_Answer)
    except TimeoutError as exc:
        raise Silent(f"the server at {socket_path} did not answer within {timeout_s:g} s") from exc
    except aiohttp.ClientConnectorError as exc:
        if isinstance(exc.os_error, PermissionError):
            raise Forbidden(f"{socket_path} belongs to another user: run this as the one that the server has") from exc
        raise Unavailable(f"no server answers at {socket_path}: {exc}") from exc
    except (aiohttp.ClientError, OSError) as exc:
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
        raise StartError(
            f"{path}: longer than the {PATH_BYTES_MAX} bytes that a unix socket's path may have: "
            "give the directory a shorter one"
        )
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


def _bound_beside(directory: Path, stem: str) -> tuple[Path, socket.socket]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            path = directory / f"{stem}.sock"
            if _is_served(path):
                path = directory / f"{stem}-{secrets.token_hex(3)}.sock"
            return path, _bound(path)
    except OSError as exc:
        raise StartError(f"{directory}: {exc.strerror or exc}") from exc


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Who looks for a name there does so alone."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(_short(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # so many ask it already
            return True
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
