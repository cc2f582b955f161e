"""``chatd doctor``: what could go wrong with a server where it is, and the way out. It looks, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from chatd import jwt_keys
from chatd.configuration import strays
from chatd.doctor import database, files, machine, redis
from chatd.doctor.finding import Finding, State
from chatd.errors import ConfigError
from chatd.limits import parse_networks
from chatd.settings import Settings
from chatd.transport.tls import Certificate, require_encryption

__all__ = ["Finding", "State", "examine"]


def examine(settings: Settings, *, full: bool = False) -> list[Finding]:
    """Everything that there is to look at for these settings. ``full``: every index of the database, too.

    It takes as long as reading the database twice, or a few times more with ``full``.
    """
    directory = Path(settings.server.data_dir)
    found = list(_configuration(settings))
    ours = files.processes(directory)
    if settings.store.kind == "sqlite":
        found += files.examine(directory, ours)
        found += machine.disk(directory)
        looked = database.examine(directory, full=full)
        found += looked.findings
        newest_ms = looked.newest_ms
    else:
        if directory.is_dir():  # the configuration and sockets may be there
            found += files.examine(directory, ours)
        newest_ms = 0
    found += machine.clock(newest_ms)
    found += machine.ports(settings, ours)
    found += machine.open_files(settings.limits.connections_max, min(ours, default=0))
    found += machine.certificate(settings.server.tls_certificate)
    found += machine.key(settings.server.tls_key)
    if settings.store.kind == "redis" or settings.cluster.bus_url:
        found += asyncio.run(redis.examine(settings))
    return found


def _configuration(settings: Settings) -> Iterable[Finding]:
    """What a start would refuse and the settings alone do not tell."""
    accounts = settings.accounts
    try:
        parse_networks(settings.server.trusted_proxies)
        require_encryption(settings.server)
        if settings.server.tls_certificate:
            Certificate(settings.server)
        if accounts.jwt_keys:
            jwt_keys.load(Path(accounts.jwt_keys), audience=accounts.jwt_audience, issuer=accounts.jwt_issuer)
    except ConfigError as exc:
        yield Finding("configuration", "fail", str(exc), "correct it; `chatd config check` says when it is right")
        return
    for line in strays():
        yield Finding("configuration", "warn", line, "correct its name; it is not looked at")
    if settings.store.kind == "memory":
        yield Finding("configuration", "warn", "store.kind is memory: all is gone at exit", 'set store.kind = "sqlite"')
        return
    if settings.store.kind == "sqlite" and settings.store.synchronous == "normal":
        yield Finding(
            "configuration",
            "warn",
            "store.synchronous is normal: a power cut may take what was answered",
            'set store.synchronous = "full"',
        )
        return
    yield Finding("configuration", "ok", "right")
