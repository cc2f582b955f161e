"""The wiring: a server is put together here and nowhere else."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from chatd import __version__, admin, jwt_keys
from chatd.accounts import Accounts
from chatd.delivery import Delivery
from chatd.errors import ConfigError, StartError, StoreBroken
from chatd.exporting import Exporting
from chatd.limits import Buckets, Network, is_loopback, parse_networks
from chatd.listening import RECONNECT_SPREAD_MS, Listening
from chatd.metrics import Metrics
from chatd.metrics.sampler import Sampler
from chatd.operations import Operations
from chatd.overview import Overview
from chatd.passwords import Passwords
from chatd.presence.service import Presence
from chatd.protocol import WS_PATH
from chatd.push.base import Context, Notifier
from chatd.push.load import load
from chatd.push.sender import Sender
from chatd.push.service import Push
from chatd.push.subscriptions import Subscriptions
from chatd.retention import Retention
from chatd.routing.bus import Board, Bus
from chatd.routing.exchange import Exchange
from chatd.routing.others import OtherProcesses
from chatd.security import EVENTS, SecurityLog
from chatd.sequencer import Sequencer
from chatd.services import Services
from chatd.settings import Settings
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.engine import Engine
from chatd.tracing import Tracer
from chatd.transport import http
from chatd.transport.api import Api
from chatd.transport.browser import guard
from chatd.transport.sockets import Sockets
from chatd.web.pages import Site

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

KEYS_MAX = 50_000
CALLS_PER_S, CALLS_BURST = 50.0, 200

log = structlog.get_logger("chatd")


def make_store(settings: Settings) -> Store:
    """The store that the settings name."""
    if settings.store.kind == "memory":
        return MemoryStore()
    if settings.store.kind == "redis":
        from chatd.store.redis import RedisStore  # a tenth of a start and 6 MiB, which others save

        return RedisStore(settings.store)
    return SqliteStore(Path(settings.server.data_dir), settings.store)


class Server:
    """One chatd in one event loop: `start`, then `stop`. Installs no signal handlers and configures no logging.

    ``store``, ``bus``, ``board``: instead of those that the settings name. ``now_ms``: wall clock, Unix ms; ``now_s``:
    monotonic.
    ``on_broken``: called once when the disk cannot be trusted any more; the process should end. ``tracer_provider``:
    what makes the spans of traced messages, instead of ``tracing.endpoint``; who gives it shuts it down.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        passwords: Passwords | None = None,
        bus: Bus | None = None,
        board: Board | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        now_s: Callable[[], float] = time.monotonic,
        on_broken: Callable[[StoreBroken], None] = lambda exc: None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.settings = settings
        self.store = make_store(settings) if store is None else store
        self.metrics = Metrics(now_s=now_s, now_ms=now_ms)
        self._sampler = Sampler(self.metrics)
        self.listening = Listening(settings, self.metrics, now_s=now_s)
        self._bus = bus
        self._board = board
        self._passwords = passwords or Passwords()
        self._own_passwords = passwords is None
        self._now_ms = now_ms
        self._now_s = now_s
        self._on_broken = on_broken
        self._tracer_provider = tracer_provider
        self._broken = False
        self._running = False
        self._stopping = False
        self._stack = AsyncExitStack()
        self.accounts: Accounts
        self.sequencer: Sequencer
        self.delivery: Delivery
        self.presence: Presence
        self.security: SecurityLog
        self.push: Push
        self.tracer: Tracer | None = None
        self.retention: Retention
        self.exchange: Exchange | None
        self.subscriptions: Subscriptions
        self.sockets: Sockets
        self.operations: Operations
        self._overview: Overview

    @property
    def url(self) -> str:
        """Where it listens, as ``http://host:port``, or https with a certificate."""
        return self.listening.url

    @property
    def port(self) -> int:
        """The port that it listens on; 0: none."""
        return self.listening.port

    async def start(self, *, listen: bool = True, handed: Path | None = None) -> None:
        """Open, begin to work, listen. Raises: StartError, ConfigError – one line that says the way out.

        ``handed``: instead of a port, a unix socket over which routers of this host hand connections over.
        """
        if listen and handed is None:
            self.listening.check()
        missing = await self.open(listen=listen)
        self._log_store()
        for line in missing:
            log.info("notifier_missing", notifier=line)
        try:
            if self.exchange is not None:
                await self.exchange.open()
            self.sequencer.start()
            self.push.start()
            self.retention.start()
            self.sockets.start()
            self._sampler.start()
            if listen or handed is not None:
                await self.listening.open(self.web_app(), self.sockets, handed=handed)
            self._running = True
        except BaseException:
            await self.stop()
            raise

    async def open(self, *, listen: bool = True) -> list[str]:
        """Open the store and put everything together, so that the administration can work; nothing runs yet.

        Returns: a line about each notifier that cannot be had. Raises: as `start`.
        """
        settings = self.settings
        proxies = parse_networks(settings.server.trusted_proxies)
        jwt = None
        if settings.accounts.jwt_keys:
            path = Path(settings.accounts.jwt_keys)
            jwt = jwt_keys.load(path, audience=settings.accounts.jwt_audience, issuer=settings.accounts.jwt_issuer)
        await self.store.open()
        engine = getattr(self.store, "engine", None)
        if isinstance(engine, Engine):
            engine.on_commit = self.metrics.fsync_seconds.observe
        try:
            notifiers, missing = await load(Context(settings.push, self.store, self._now_ms))
            self._wire(jwt, proxies, notifiers, missing, listen=listen)
        except BaseException:
            await self.store.close()
            raise
        return missing

    def _wire(
        self,
        jwt: jwt_keys.JwtKeys | None,
        proxies: tuple[Network, ...],
        notifiers: Mapping[str, Notifier],
        missing: Sequence[str],
        *,
        listen: bool,
    ) -> None:
        settings = self.settings
        self.accounts = Accounts(
            self.store,
            settings.accounts,
            now_ms=self._now_ms,
            loopback=listen and not proxies and is_loopback(settings.server.host),
            passwords=self._passwords,
            jwt=jwt,
        )
        limits = settings.limits
        sends = Buckets(limits.sends_per_s, limits.sends_burst, KEYS_MAX)
        self.delivery = Delivery(self.metrics, connections_per_user_max=limits.connections_per_user_max)
        self.presence = self._make_presence()
        self._make_push(notifiers, missing)
        self.tracer = self._make_tracer()
        self.exchange = self._make_exchange()
        everywhere = self.exchange
        self.accounts.on_revoked = everywhere.ended if everywhere else self.delivery.end
        self.accounts.on_enabled = self.push.sender.subscribed  # what a disabled user had counts again
        self.accounts.on_blocked = everywhere.blocked if everywhere else self.presence.blocked
        self.accounts.on_shows_last_seen = (everywhere or self.presence).shows_last_seen
        self.sequencer = Sequencer(
            self.store,
            [one for one in (self.tracer, self.delivery, self.push, everywhere) if one is not None],
            limits,
            self.metrics,
            now_s=self._now_s,
            on_broken=self._store_broke,
        )
        self.retention = Retention(
            self.store,
            settings.retention,
            self.metrics,
            now_ms=self._now_ms,
            random=random.random,
            on_broken=self._store_broke,
            chosen=lambda: everywhere is None or everywhere.chosen,
        )
        catch_ups = asyncio.Semaphore(limits.catch_ups_max)
        self.security = SecurityLog(self._now_s)
        services = Services(
            settings=settings,
            store=self.store,
            accounts=self.accounts,
            sequencer=self.sequencer,
            delivery=self.delivery,
            presence=self.presence,
            exchange=self.exchange,
            metrics=self.metrics,
            catch_ups=catch_ups,
            sends=sends,
            now_s=self._now_s,
            now_ms=self._now_ms,
            now_us=lambda: time.time_ns() // 1_000,
            on_broken=self._store_broke,
            security=self.security,
            tracer=self.tracer,
        )
        self.sockets = Sockets(services, origins=settings.server.origins, proxies=proxies)
        self.operations = self._make_operations()
        self._overview = Overview(self.operations)
        self._api = self._make_api(sends, proxies)

    def _make_operations(self) -> Operations:
        return Operations(
            self.store,
            self.settings.store.kind,
            self.metrics,
            self.delivery,
            ready=lambda: not self._broken and not self._stopping,
            draining=lambda: self._stopping,
            slowest=self.sockets.slowest,
            processes=lambda: 0 if self.exchange is None else self.exchange.processes,
            now_s=self._now_s,
            now_ms=self._now_ms,
        )

    def _make_presence(self) -> Presence:
        return Presence(
            self.store,
            self.settings.presence,
            self.metrics,
            devices=self.delivery.connected,
            now_s=self._now_s,
            now_ms=self._now_ms,
        )

    def _make_exchange(self) -> Exchange | None:
        """The way to the other processes, or None: there is one process."""
        cluster = self.settings.cluster
        bus, board = self._bus, self._board
        if bus is None and cluster.bus_url:
            from chatd.routing.board_redis import RedisBoard
            from chatd.routing.bus_redis import RedisBus

            bus = RedisBus(cluster.bus_url, self.metrics, publish_hints_max=cluster.publish_hints_max)
            board = RedisBoard(cluster.bus_url)
        if bus is None or board is None:
            return None
        process = secrets.token_hex(8)
        others = OtherProcesses(bus, board, self.presence, process=process, lease_s=cluster.lease_s)
        exchange = Exchange(
            bus,
            self.delivery,
            self.presence,
            self.push,
            others,
            self.metrics,
            process=process,
            incarnation=self.store.incarnation,
            reconcile_s=cluster.reconcile_s,
            calm_s=cluster.reconcile_calm_s,
            spread_s=cluster.spread_s,
            random=random.random,
            tracer=self.tracer,
        )
        self.presence.on_typing = exchange.typing
        self.presence.others = others
        self.push.elsewhere = True
        self.delivery.remember_marks()
        return exchange

    def _make_tracer(self) -> Tracer | None:
        settings = self.settings.tracing
        if self._tracer_provider is None and not settings.endpoint:
            return None
        try:
            from chatd.tracing_otel import OtelTracer
        except ImportError as exc:
            raise ConfigError(f"tracing.endpoint: needs the extra: pip install 'chatd[otel]' ({exc})") from exc
        return OtelTracer(
            settings,
            self._tracer_provider,
            connected=self.delivery.has,
            now_s=self._now_s,
            now_ms=self._now_ms,
            random=random.random,
        )

    def _make_push(self, notifiers: Mapping[str, Notifier], missing: Sequence[str]) -> None:
        settings = self.settings.push
        sender = Sender(self.store, notifiers, settings, self.metrics, now_ms=self._now_ms)
        self.push = Push(
            self.store,
            sender,
            settings,
            self.metrics,
            connected=self.delivery.has,
            now_s=self._now_s,
            now_ms=self._now_ms,
            random=random.random,
            on_broken=self._store_broke,
        )
        self.subscriptions = Subscriptions(
            self.store, notifiers, missing, now_ms=self._now_ms, on_subscribed=sender.subscribed
        )

    def _make_api(self, sends: Buckets, proxies: tuple[Network, ...]) -> Api:
        settings, limits = self.settings, self.settings.limits
        return Api(
            accounts=self.accounts,
            store=self.store,
            subscriptions=self.subscriptions,
            sender=self.sequencer,
            limits=limits,
            sends=sends,
            calls=Buckets(CALLS_PER_S, CALLS_BURST, KEYS_MAX),
            logins=Buckets(limits.logins_per_s, limits.logins_burst, KEYS_MAX),
            registry=self.metrics.registry,
            now_ms=self._now_ms,
            now_s=self._now_s,
            ready=lambda: not self._broken and not self.sockets.draining,
            on_broken=self._store_broke,
            origins=settings.server.origins,
            trusted_proxies=proxies,
            site=Site() if settings.server.web else None,
            metrics_here=not settings.server.metrics_listen,
            on_store_error=self.metrics.store_failed,
            security=self.security,
            overview=self._overview,
            tracer=self.tracer,
            log_requests=settings.server.log_level == "debug",
        )

    def web_app(self) -> web.Application:
        """The HTTP and WebSocket application: what `start` serves, or what a host mounts with ``add_subapp``."""
        app = web.Application()
        app.on_response_prepare.append(guard(tls=bool(self.settings.server.tls_certificate)))
        app.router.add_get(WS_PATH, self.sockets.upgrade)
        app.add_routes(http.routes(self._api))
        return app

    @property
    def administered(self) -> admin.Administered:
        """What the administration's verbs work on."""
        operations = self.operations if self._running else None
        return admin.Administered(
            self.accounts, self.subscriptions, self.push, Exporting(self.store, now_ms=self._now_ms), operations
        )

    async def serve_admin(self, name: str = "") -> None:
        """Let ``chatd user``, ``status`` and their like reach this server through its data directory.

        ``name``: what it is called among the processes that share the directory. Without a file of its own there it
        can do without the socket, too.
        """
        self.operations.name = name
        if isinstance(self.store, SqliteStore):
            path = self.store.directory / admin.SOCKET_NAME
            serving = admin.serving(self.administered, path, on_done=self._on_administered)
            await self._stack.enter_async_context(serving)
            return
        directory = Path(self.settings.server.data_dir)
        stem = f"{admin.STEM}-{name}" if name else admin.STEM
        try:
            beside = admin.serving_beside(self.administered, directory, stem, on_done=self._on_administered)
            self._overview.socket = await self._stack.enter_async_context(beside)
        except StartError as exc:
            log.warning("no_admin_socket", error=str(exc))

    def _on_administered(self, verb: str, args: Mapping[str, Any]) -> None:
        if (event := f"admin_{verb}") in EVENTS and not args.get("cursor"):  # of many steps the first
            self.security.tell(event, address="local", user=str(args.get("user", "")))

    async def stop(self, *, drain_s: float = 0.0) -> None:
        """End in an orderly way: no new connections, commits finish, clients are told, all within ``drain_s``."""
        self._stopping = True
        await self.listening.leave()
        self.sockets.draining = True
        self.listening.shut()
        self.sockets.goaway_all("the server is stopping", RECONNECT_SPREAD_MS)
        if not self._broken:
            await self.sequencer.close()
        self.sockets.end_all(1012, "the server restarts")
        await self.sockets.emptied(drain_s)
        self.sockets.stop()
        await self.presence.close()
        await self.push.close()
        await self.retention.close()
        self._sampler.stop()
        if self.exchange is not None:
            await self.exchange.close()
        await self.listening.close()
        await self._stack.aclose()
        if self.tracer is not None:
            await self.tracer.close()
        if self._own_passwords:
            self._passwords.close()
        await self.store.close()

    def _store_broke(self, exc: StoreBroken) -> None:
        if not self._broken:
            self._broken = True
            if not self.metrics.store_errors["broken"]:  # whoever met it may have counted it
                self.metrics.store_failed(exc)
            try:
                log.critical("store_broken", error=str(exc))
            finally:  # the log may lie on the same disk
                self._on_broken(exc)

    def _log_store(self) -> None:
        if isinstance(self.store, SqliteStore):
            log.info(
                "store_opened",
                version=__version__,
                sqlite=self.store.sqlite_version,
                durability=self.store.durability,
                incarnation=self.store.incarnation,
                migrated=self.store.migrated,
            )


__all__ = ["ConfigError", "Server", "StartError", "is_loopback", "make_store"]
