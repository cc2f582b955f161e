"""What a Redis must be to hold messages, and what it makes of a commit."""

from __future__ import annotations

from typing import Literal

from chatd.errors import StartError, Unavailable
from chatd.model import Durability
from chatd.store.redis.engine import Engine

VERSION_MIN = (7, 0)


async def durability(engine: Engine, said: Literal["auto", "fsync", "os", "memory"]) -> Durability:
    """What a commit survives there, or what the settings say of a Redis that does not tell.

    ``fsync`` only with appendonly yes and appendfsync always; ``os`` with everysec, which survives the end of the
    Redis process and loses up to a second with the machine; else ``memory``.
    Raises: StartError – it is too old, or throws keys away when its memory is full; Unavailable.
    """
    info = (await engine.one(("INFO", "server"), write=False)).decode()
    found = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    version = found.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        raise StartError(f"store.redis_url: Redis {version} is too old; chatd needs 7.0 or later")
    try:
        config = await _config(engine)
    except Unavailable as exc:
        if said == "auto":
            raise StartError(
                "store.redis_url: this Redis does not tell its configuration (CONFIG GET); "
                "say in store.redis_durability what a commit survives there"
            ) from exc
        return said
    if config.get("maxmemory", "0") != "0" and config.get("maxmemory-policy") != "noeviction":
        raise StartError(
            f"store.redis_url: maxmemory-policy is {config.get('maxmemory-policy')}: this Redis throws messages away "
            "when its memory is full; set it to noeviction"
        )
    if config.get("appendonly") != "yes":
        found_out: Durability = "memory"
    else:
        found_out = "fsync" if config.get("appendfsync") == "always" else "os"
    if said == "fsync" and found_out != "fsync":
        raise StartError(
            f"store.redis_durability: it says fsync, but Redis has appendonly {config.get('appendonly')} and "
            f"appendfsync {config.get('appendfsync')}; set them to yes and always"
        )
    return found_out


async def _config(engine: Engine) -> dict[str, str]:
    names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    flat = await engine.one(("CONFIG", "GET", *names), write=False)
    return dict(zip((one.decode() for one in flat[::2]), (one.decode() for one in flat[1::2]), strict=True))
