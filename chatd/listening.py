"""Where connections come in: a port of its own, with or without TLS, or the socket of this host's routers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from chatd.errors import StartError
from chatd.limits import parse_networks
from chatd.metrics import Metrics
from chatd.routing.handover import Handover
from chatd.routing.membership import SETTLE_S, Member, Membership
from chatd.routing.proxying import host_and_port
from chatd.routing.ring import Ring
from chatd.settings import Settings
from chatd.transport.door import Door
from chatd.transport.handler import handlers
from chatd.transport.scraping import MetricsListener
from chatd.transport.sockets import Sockets
from chatd.transport.tls import Certificate, require_encryption
from chatd.transport.turnstile import Turnstile

KEEPALIVE_S = 15.0
RECONNECT_SPREAD_MS = 5_000
HANG_UP_S_MAX = 1.0
TLS_GOODBYE_S = 5.0


class Listening:
    """The ways in of one server. They end in three steps: `leave` the ring, `shut` the doors, `close` everything.

    ``now_s``: monotonic. ``certificate``: None where it speaks no TLS.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, now_s: Callable[[], float]) -> None:
        self.port = 0
        self.certificate: Certificate | None = None
        self._settings = settings
        self._metrics = metrics
        self._now_s = now_s
        self._port_listener: asyncio.Server | None = None
        self._metrics_listener: MetricsListener | None = None
        self._handover: Handover | None = None
        self._membership: Membership | None = None
        self._judging: asyncio.TimerHandle | None = None
        self._doors: set[Door] = set()
        self._stack = AsyncExitStack()
        self._sockets: Sockets

    @property
    def url(self) -> str:
        """Where it listens, as ``http://host:port``, or https with a certificate."""
        host = self._settings.server.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is only shown
        scheme = "https" if self._settings.server.tls_certificate else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    @property
    def metrics_port(self) -> int:
        """Where the metrics' own listener listens; 0: there is none."""
        return self._metrics_listener.port if self._metrics_listener else 0

    def check(self) -> None:
        """Look at what a port of its own needs, before anything is opened. Raises: ConfigError, StartError."""
        require_encryption(self._settings.server)
        if self._settings.server.tls_certificate:
            self.certificate = Certificate(self._settings.server)

    async def open(self, app: web.Application, sockets: Sockets, *, handed: Path | None) -> None:
        """Let them in: on the port, or on ``handed``, a unix socket of the routers. Raises: StartError."""
        self._sockets = sockets
        listen = self._settings.server.metrics_listen
        if listen:
            self._metrics_listener = MetricsListener(self._metrics.registry, listen)
            await self._metrics_listener.start()
        doorway = await self._doorway(app, sockets)
        if handed is not None:
            self._serve_handed(handed, doorway)
        else:
            await self._listen(doorway)
            self._advertise()

    async def leave(self) -> None:
        """The others are to send nobody here any more."""
        if self._judging is not None:
            self._judging.cancel()
        if self._membership is not None:
            await self._membership.close()
        if self._handover is not None:
            await self._handover.drain(HANG_UP_S_MAX)

    def shut(self) -> None:
        """Nobody comes in any more; who stands in a door has to go."""
        if self._port_listener is not None:
            self._port_listener.close()
        for door in list(self._doors):
            door.cut()

    async def close(self) -> None:
        """Let go of everything."""
        if self._metrics_listener is not None:
            await self._metrics_listener.stop()
        await self._stack.aclose()

    async def _doorway(self, app: web.Application, sockets: Sockets) -> Callable[[bytes], Door]:
        """What makes a connection's first protocol; it gets what of the head was read already."""
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        limits, head_s = self._settings.limits, self._settings.timing.head_s
        proxies, tell = parse_networks(self._settings.server.trusted_proxies), sockets.services.security.tell
        server = cast(web.Server, runner.server)  # `setup` made it
        inside = handlers(server, keepalive_s=KEEPALIVE_S, tell=tell, proxies=proxies)
        turnstile = Turnstile(
            limits.upgrades_per_s,
            limits.upgrades_burst,
            waiting_max=limits.connections_max,
            waiting_per_address_max=limits.connects_burst,
            now_s=self._now_s,
        )
        self._stack.callback(turnstile.close)
        self._metrics.gauges["upgrades_waiting"] = lambda: len(turnstile)

        return lambda head: Door(
            inside,
            head_s=head_s,
            doors=self._doors,
            turnstile=turnstile,
            tell=tell,
            proxies=proxies,
            head=head,
        )

    def _serve_handed(self, path: Path, doorway: Callable[[bytes], Door]) -> None:
        handover = Handover(path, doorway, on_view=self._on_view)
        try:
            handover.listen()
        except OSError as exc:
            raise StartError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
        self._handover = handover

    async def _listen(self, doorway: Callable[[bytes], Door]) -> None:
        server = self._settings.server
        try:
            self._port_listener = await asyncio.get_running_loop().create_server(
                lambda: doorway(b""), server.host, server.port, backlog=4096, **self._encryption()
            )
        except socket.gaierror as exc:
            raise StartError(f"server.host {server.host}: {exc.strerror}") from exc
        except OSError as exc:
            raise StartError(
                f"cannot listen on {server.host}:{server.port}: {os.strerror(exc.errno) if exc.errno else exc}; "
                "stop what listens there, or choose another with --port"
            ) from exc
        self.port = self._port_listener.sockets[0].getsockname()[1]

    def _encryption(self) -> dict[str, Any]:
        """What makes a listening socket speak TLS, if it is to."""
        if self.certificate is None:
            return {}
        self.certificate.warn()
        self.certificate.start()
        self._stack.callback(self.certificate.stop)
        return {
            "ssl": self.certificate.context,
            "ssl_handshake_timeout": self._settings.timing.head_s,
            "ssl_shutdown_timeout": TLS_GOODBYE_S,
        }

    # --- the ring of the routers ------------------------------------------------------------------------

    def _advertise(self) -> None:
        """Join the ring of the routers, and send home who belongs to another one of them."""
        cluster = self._settings.cluster
        if not cluster.advertise:
            return
        host_and_port(cluster.advertise, "cluster.advertise")
        me = Member(cluster.advertise, cluster.weight, secrets.token_hex(8))
        from chatd.routing.members_redis import RedisMembers

        members = RedisMembers(cluster.bus_url)
        self._membership = Membership(members, lease_s=cluster.lease_s, on_change=self._on_members, me=me)
        self._membership.start()

    def _on_members(self, weights: Mapping[str, int]) -> None:
        me = self._settings.cluster.advertise
        if self._judging is not None:
            self._judging.cancel()
        if me in weights:  # else the lease was lost for a while: whoever is here may stay
            self._judging = asyncio.get_running_loop().call_later(SETTLE_S, self._on_view, me, weights)

    def _on_view(self, me: str, weights: Mapping[str, int]) -> None:
        ring = Ring(weights)
        self._sockets.goaway_some(lambda u: ring.place(u) == me, "your place is another process", RECONNECT_SPREAD_MS)
