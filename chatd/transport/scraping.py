"""Who may read the metrics, and the listener of their own that they can have.

They name no user, but tell a stranger how busy and how healthy a server is. So the main port tells them to this machine
alone; whoever scrapes from elsewhere is given a listener, whose address the operator chooses.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from chatd.errors import Forbidden, StartError
from chatd.settings import host_and_port
from chatd.transport.problem import HEADERS

PASSED_ON = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")
KEEPALIVE_S = 75.0  # Prometheus comes back for longer than that: a scrape costs a connection, and a dead one goes


def exposition(registry: CollectorRegistry) -> web.Response:
    """What Prometheus reads."""
    return web.Response(body=generate_latest(registry), headers={**HEADERS, "Content-Type": CONTENT_TYPE_LATEST})


def check_reader(request: web.Request) -> None:
    """Raises: Forbidden – it does not come from this machine, or a proxy passed it on for somebody."""
    if not _is_here(request.remote or "") or any(name in request.headers for name in PASSED_ON):
        raise Forbidden("metrics are for this machine; to read them from another one set server.metrics_listen")


def _is_here(remote: str) -> bool:
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class MetricsListener:
    """``GET /metrics`` at an address of its own, for everybody who reaches it."""

    def __init__(self, registry: CollectorRegistry, listen: str) -> None:
        self._registry = registry
        self._listen = listen
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Raises: StartError – it cannot listen there."""
        host, port = host_and_port(self._listen)
        app = web.Application()
        app.router.add_get("/metrics", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=KEEPALIVE_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as exc:
            told = exc.strerror if isinstance(exc, socket.gaierror) or not exc.errno else os.strerror(exc.errno)
            raise StartError(
                f"server.metrics_listen {self._listen}: {told}; stop what listens there, or name another"
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Answer what is under way, and end."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        return exposition(self._registry)
