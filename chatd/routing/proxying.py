"""A worker on another host: the router copies bytes both ways, with back-pressure, and says for whom.

One connection carries one request, or one WebSocket: the head of a second request would have to be read too, or a
client could write its own X-Forwarded-For into it. So a plain request is asked to close, and what a client sends behind
the head of an upgrade waits until the worker has switched protocols.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog

from chatd.errors import ConfigError
from chatd.routing.handover import Client

BUFFER_BYTES_MAX = 65_536
"""In each direction of a connection, twice: what was read, and what could not be written."""
CONNECTIONS_MAX = 20_000
CONNECT_S_MAX = 3.0
CLOSE_S_MAX = 10.0
DOWN_S = 1.0
"""So long a node that could not be reached is not tried again."""
SWITCHED = b"HTTP/1.1 101"
_OURS = (b"x-forwarded-for", b"connection")

log = structlog.get_logger("chatd.router")


def forwarded(head: bytes, address: str) -> tuple[bytes, bytes, bool] | None:
    """A request head that names ``address`` as the last hop, what came behind it, and whether it asks for an upgrade.

    All X-Forwarded-For lines become one. None: its lines do not end in CR LF, so two readers could see two heads.
    """
    lines, _, behind = head.partition(b"\r\n\r\n")
    if not lines.count(b"\r\n") == lines.count(b"\r") == lines.count(b"\n"):
        return None
    request, *fields = lines.split(b"\r\n")
    kept, hops, upgrade = [request], [], False
    for field in fields:
        name, _, value = field.partition(b":")
        if name.strip().lower() == _OURS[0]:
            hops.append(value.strip())
        elif name.strip().lower() == b"upgrade":
            upgrade = True
            kept.append(field)
        elif name.strip().lower() != _OURS[1]:
            kept.append(field)
    kept.append(b"X-Forwarded-For: " + b", ".join([*hops, address.encode()]))
    kept.append(b"Connection: Upgrade" if upgrade else b"Connection: close")
    return b"\r\n".join(kept) + b"\r\n\r\n", behind, upgrade


def host_and_port(url: str, setting: str) -> tuple[str, int]:
    """Of a node's address. Raises: ConfigError – not ``http://host:port``; the line names the setting."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none
        host, port = None, None
    if parts.scheme != "http" or not host or not port or parts.path.strip("/"):
        raise ConfigError(f"{setting}: {url} is not http://host:port")
    return host, port


class Proxied:
    """A node at ``http://host:port``. ``retry`` gets a client back if the node cannot be reached.

    At CONNECTIONS_MAX open connections `take` refuses further ones. Raises: ConfigError – not such a URL.
    """

    def __init__(self, url: str, *, retry: Callable[[Client], None]) -> None:
        host, port = host_and_port(url, "cluster.nodes")
        self.name = url
        self._host, self._port = host, port
        self._retry = retry
        self._down_until_s = 0.0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether it could be reached lately, or has not been tried."""
        return asyncio.get_running_loop().time() >= self._down_until_s

    @property
    def idle(self) -> bool:
        """Whether it serves nobody."""
        return not self._serving

    async def run(self) -> None:
        """Nothing to do between connections; when cancelled, all of them are cut."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving)

    def take(self, client: Client) -> bool:
        """Serve a client from now on. False: there are too many."""
        if len(self._serving) >= CONNECTIONS_MAX:
            return False
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return True

    async def _serve(self, client: Client) -> None:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                node = await asyncio.open_connection(self._host, self._port, limit=BUFFER_BYTES_MAX)
        except (OSError, TimeoutError) as exc:
            log.warning("node_unreachable", node=self.name, error=str(exc) or f"no answer in {CONNECT_S_MAX} s")
            self._down_until_s = asyncio.get_running_loop().time() + DOWN_S
            client.tried.add(self.name)
            self._retry(client)
            return
        except BaseException:
            client.socket.close()
            raise
        writers = [node[1]]
        try:
            peer = str(client.socket.getpeername()[0])
            own = await asyncio.open_connection(sock=client.socket, limit=BUFFER_BYTES_MAX)
            writers.append(own[1])
            await _relay(client.head, peer, own, node)
        except (OSError, RuntimeError) as exc:  # either side went away (uvloop says it so): that is the end for both
            log.debug("relay_ended", node=self.name, error=str(exc))
        finally:
            if len(writers) == 1:
                client.socket.close()
            for writer in writers:
                _let_go(writer)


def _let_go(writer: asyncio.StreamWriter) -> None:
    """Close; what is still to be written has CLOSE_S_MAX for it."""
    writer.close()
    if writer.transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(CLOSE_S_MAX, writer.transport.abort)


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(head: bytes, peer: str, client: _Streams, node: _Streams) -> None:
    """Until both sides have said all. Raises: OSError – a side went away."""
    changed = forwarded(head, peer)
    if changed is None:
        client[1].write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await client[1].drain()
        return
    for writer in (client[1], node[1]):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        writer.transport.set_write_buffer_limits(high=BUFFER_BYTES_MAX)
    head, behind, upgrade = changed
    node[1].write(head if upgrade else head + behind)
    await node[1].drain()
    if upgrade:
        answer = await _first_bytes(node[0], len(SWITCHED))
        client[1].write(answer)
        if not answer.startswith(SWITCHED):
            await _pump(node[0], client[1])  # refused; whatever else the client says, nobody hears it
            return
        node[1].write(behind)
    pumps = [asyncio.create_task(_pump(client[0], node[1])), asyncio.create_task(_pump(node[0], client[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _first_bytes(reader: asyncio.StreamReader, count: int) -> bytes:
    try:
        return await reader.readexactly(count)
    except asyncio.IncompleteReadError as exc:
        return exc.partial


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BUFFER_BYTES_MAX):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
