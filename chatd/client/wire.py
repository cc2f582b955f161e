"""The client's way to the network: one WebSocket connection, and the login call. Only this file knows aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
import msgspec
from msgspec import Struct

from chatd.errors import REFUSALS, BadFrame, Refusal, Unavailable
from chatd.protocol import CLOSE_CODES, SUBPROTOCOL, WS_PATH

CONNECT_TIMEOUT_S = 10.0
HANDSHAKE_TIMEOUT_S = 60.0
"""For the whole handshake: when thousands come back at once, a server lets them in one after the other."""
CLOSE_TIMEOUT_S = 2.0
FRAME_BYTES_MAX = 4 * 1024 * 1024


class WireClosed(Exception):
    """The connection is over, or did not come about. ``code`` is a WebSocket close code of protocol §3."""

    def __init__(self, code: int, reason: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry_after_ms = retry_after_ms

    @property
    def final(self) -> bool:
        """Whether connecting again is of no use. An unknown code is not final: version 1 may grow."""
        known = CLOSE_CODES.get(self.code)
        return known is not None and not known.reconnect


class Wire(Protocol):
    """One open connection. Raises (send, receive): WireClosed."""

    async def send(self, data: bytes) -> None:
        """Send one text frame; waits while the socket takes no more."""

    async def receive(self) -> bytes | None:
        """The next text frame, or None: a ping or pong, the peer is alive."""

    async def close(self) -> None:
        """Close, and let go of everything."""


Connect = Callable[[str], Awaitable[Wire]]


def websocket_url(url: str, user: str | None) -> str:
    """The WebSocket URL of a server's base URL (http, https, ws or wss), with the placement hint.

    Raises: BadFrame – not such a URL.
    """
    scheme, host, path, _, _ = urlsplit(url)
    if scheme not in ("http", "https", "ws", "wss") or not host:
        raise BadFrame(f"not a server's URL (http://host:port): {url}")
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    path = path.rstrip("/").removesuffix(WS_PATH) + WS_PATH
    return urlunsplit((scheme, host, path, f"user={quote(user)}" if user else "", ""))


class AiohttpWire:
    """A connection through aiohttp."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse[Literal[False]]) -> None:
        self._session = session
        self._socket = socket

    async def send(self, data: bytes) -> None:
        try:
            await self._socket.send_frame(data, aiohttp.WSMsgType.TEXT)
        except (aiohttp.ClientError, OSError) as exc:
            raise WireClosed(1006, f"connection lost: {exc}") from exc

    async def receive(self) -> bytes | None:
        message = await self._socket.receive()
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                return bytes(message.data)
            case aiohttp.WSMsgType.PING:
                try:
                    await self._socket.pong(message.data)
                except (aiohttp.ClientError, OSError) as exc:
                    raise WireClosed(1006, f"connection lost: {exc}") from exc
                return None
            case aiohttp.WSMsgType.PONG:
                return None
            case aiohttp.WSMsgType.CLOSE:
                code = int(message.data or 1006)
                known = CLOSE_CODES.get(code)
                raise WireClosed(code, message.extra or (known.meaning if known else "closed by the server"))
            case aiohttp.WSMsgType.BINARY:
                raise WireClosed(1006, "the server sent a binary frame")
            case _:  # ERROR, CLOSED, CLOSING: what the server meant is not known, so come back
                raise WireClosed(1006, f"connection lost: {message.data or 'no close frame'}")

    async def close(self) -> None:
        try:
            await self._socket.close()
        finally:
            await self._session.close()


async def connect(url: str) -> Wire:
    """Open a WebSocket connection to ``url``.

    Raises: WireClosed – 1006 and 1013 may be tried again; 4400 (this URL is refused) may not.
    """
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S))
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            socket = await session.ws_connect(
                url,
                protocols=(SUBPROTOCOL,),
                compress=0,
                autoping=False,
                decode_text=False,
                max_msg_size=FRAME_BYTES_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )
    except aiohttp.WSServerHandshakeError as exc:
        await session.close()
        retry_after = exc.headers.get("Retry-After", "") if exc.headers else ""
        retry_after_ms = int(retry_after) * 1000 if retry_after.isdecimal() else None
        later = exc.status >= 500 or exc.status in (408, 425, 429)
        reason = f"{url}: the handshake was refused with status {exc.status}"
        raise WireClosed(1013 if later else 4400, reason, retry_after_ms=retry_after_ms) from exc
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        await session.close()
        raise WireClosed(1006, f"{url}: {exc or type(exc).__name__}") from exc
    except BaseException:
        await session.close()
        raise
    return AiohttpWire(session, socket)


class Login(Struct, frozen=True):
    """What a login gives: a token that is bound to the new device."""

    token: str
    user: str
    device: str


async def login(
    url: str, user: str, password: str, *, device_name: str | None, register: bool, invite: str | None
) -> Login:
    """Log a new device in over HTTP; with ``register`` create the user first.

    Raises: Refusal – the server's answer (Unauthenticated, Forbidden, RateLimited …); Unavailable – no answer.
    """
    _, host, path, _, _ = urlsplit(websocket_url(url, None))
    scheme = "https" if urlsplit(url).scheme in ("https", "wss") else "http"
    base = urlunsplit((scheme, host, path.removesuffix(WS_PATH), "", ""))
    account = {"user": user, "password": password}
    timeout = aiohttp.ClientTimeout(total=30.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if register:
                await _post(session, f"{base}/v1/register", {**account, "invite": invite})
            answer = await _post(session, f"{base}/v1/login", {**account, "name": device_name})
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise Unavailable(f"{base}: {exc or type(exc).__name__}") from exc
    try:
        return msgspec.json.decode(answer, type=Login)
    except msgspec.DecodeError as exc:
        raise Unavailable(f"{base}: not a chatd server's answer: {exc}") from exc


async def _post(session: aiohttp.ClientSession, url: str, fields: dict[str, str | None]) -> bytes:
    body = {name: value for name, value in fields.items() if value is not None}
    async with session.post(url, json=body) as response:
        answer = await response.read()
        if response.status < 300:
            return answer
    try:
        problem: dict[str, Any] = msgspec.json.decode(answer, type=dict)
    except msgspec.DecodeError:
        problem = {}
    kind = REFUSALS.get(str(problem.get("code")), Refusal)
    what = problem.get("detail") or problem.get("title") or f"{url}: status {response.status}"
    retry_after_ms = problem.get("retry_after_ms")
    raise kind(str(what), retry_after_ms=retry_after_ms if isinstance(retry_after_ms, int) else None)
