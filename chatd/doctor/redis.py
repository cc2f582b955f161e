"""Redis: whether it is there, what it makes of a commit, whether it writes its files, and what time it has."""

from __future__ import annotations

import time
from collections.abc import Mapping

from chatd.doctor.finding import Finding, size
from chatd.errors import ChatdError, StartError
from chatd.model import Durability
from chatd.settings import Settings
from chatd.store.redis import FORMAT, LIFE_TAG, MOVING
from chatd.store.redis.checks import durability
from chatd.store.redis.engine import Engine

CHECK = "redis"
SKEW_S_WARN = 1.0
MEMORY_PART_WARN = 0.9
MEANS: Mapping[Durability, str] = {
    "fsync": "a commit survives a power cut",
    "os": "a power cut may take the last second",
    "memory": "a restart of Redis takes everything",
}
ANSWERED = "the server is not there or not reachable: look at its log, its address, its password"


async def examine(settings: Settings) -> list[Finding]:
    """Look at the store's Redis, and at the bus if that is another one. Nothing is written."""
    store = settings.store
    found: list[Finding] = []
    if store.kind == "redis":
        found += await _look(store.redis_url, settings, "store.redis_url", store=True)
    bus = settings.cluster.bus_url
    if bus and (store.kind != "redis" or bus != store.redis_url):
        found += await _look(bus, settings, "cluster.bus_url", store=False)
    return found


async def _look(url: str, settings: Settings, name: str, *, store: bool) -> list[Finding]:
    known = settings.store
    try:
        engine = Engine(url, prefix=known.redis_prefix, timeout_s=known.redis_timeout_s, connections_max=2)
        await engine.open()
    except (ChatdError, ValueError) as exc:
        return [Finding(CHECK, "fail", f"{name}: {exc}", ANSWERED)]
    try:
        found = [*await _durability(engine, settings)] if store else []
        found += await _servers(engine, name)
        if store:
            found += await _life(engine)
    except ChatdError as exc:
        return [Finding(CHECK, "fail", f"{name}: {exc}", ANSWERED)]
    finally:
        await engine.close()
    return found


async def _durability(engine: Engine, settings: Settings) -> list[Finding]:
    try:
        kind = await durability(engine, settings.store.redis_durability)
    except StartError as exc:
        return [Finding(CHECK, "fail", str(exc), "chatd does not start with it as it is")]
    if kind == "fsync":
        return [Finding(CHECK, "ok", f"durability is {kind}: {MEANS[kind]}")]
    out = "set appendonly yes and appendfsync always, unless that is what you want"
    return [Finding(CHECK, "warn", f"durability is {kind}: {MEANS[kind]}", out)]


async def _servers(engine: Engine, name: str) -> list[Finding]:
    """Of every server that takes writes: version, files, memory, clock."""
    found: list[Finding] = []
    before_s = time.time()
    answers = await engine.everywhere(("TIME",), ("INFO", "server"), ("INFO", "persistence"), ("INFO", "memory"))
    asked_s = time.time() - before_s
    for when, *infos in answers:
        about = {key: value for info in infos for key, value in _fields(info)}
        where = f"{name}, port {about.get('tcp_port', '?')}"
        found += _state(about, where)
        skew_s = int(when[0]) + int(when[1]) / 1e6 - before_s
        if not -SKEW_S_WARN < skew_s < SKEW_S_WARN + asked_s:
            out = "let NTP set both clocks: leases and times of messages come from both"
            found.append(Finding(CHECK, "warn", f"{where}: its clock differs from this one by {skew_s:+.1f} s", out))
    if all(one.state == "ok" for one in found):
        versions = sorted({dict(_fields(infos[0])).get("redis_version", "?") for _, *infos in answers})
        found = [
            Finding(CHECK, "ok", f"{name}: {len(answers)} of version {', '.join(versions)}, clock and files are good")
        ]
    return found


def _state(about: Mapping[str, str], where: str) -> list[Finding]:
    found = []
    for field, what in (
        ("aof_last_write_status", "its AOF could not be written"),
        ("aof_last_bgrewrite_status", "its AOF could not be rewritten"),
        ("rdb_last_bgsave_status", "its RDB file could not be saved"),
    ):
        if about.get(field, "ok") != "ok":
            found.append(Finding(CHECK, "fail", f"{where}: {what}", "look at its log, and at the space on its disk"))
    most, used = int(about.get("maxmemory", 0)), int(about.get("used_memory", 0))
    if most and used > most * MEMORY_PART_WARN:
        text = f"{where}: {size(used)} of maxmemory {size(most)} are used"
        found.append(Finding(CHECK, "warn", text, "raise maxmemory, or keep less (retention.days)"))
    return found


async def _life(engine: Engine) -> list[Finding]:
    kept = await engine.one(("HGET", engine.key(LIFE_TAG, "life"), "format"), write=False)
    if kept == MOVING.encode():
        return [Finding(CHECK, "fail", "half of a history is there", "run `chatd migrate-store` to its end")]
    if kept not in (None, FORMAT.encode()):
        text = f"the data are of format {kept.decode()}, and this chatd knows {FORMAT}"
        return [Finding(CHECK, "fail", text, "take the chatd that wrote them, or another store.redis_prefix")]
    return []


def _fields(info: bytes) -> list[tuple[str, str]]:
    rows = (line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return [(row[0], row[1]) for row in rows]
