"""What a Redis must be to hold messages, and what it makes of a commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from chatd.errors import StartError, Unavailable
from chatd.model import Durability
from chatd.store.redis.engine import Engine
from chatd.store.redis.node import Node, translated

VERSION_MIN = (7, 0)
WEAKEST_FIRST: Final[tuple[Durability, ...]] = ("memory", "os", "fsync")


async def durability(engine: Engine, said: Literal["auto", "fsync", "os", "memory"]) -> Durability:
    """What a commit survives there, or what the settings say of a Redis that does not tell.

    ``fsync`` only with appendonly yes and appendfsync always; ``os`` with everysec, which survives the end of the
    Redis process and loses up to a second with the machine; else ``memory``.
    The weakest server of a cluster counts.
    Raises: StartError – it is too old, or throws keys away when its memory is full; Unavailable.
    """
    for (info,) in await engine.everywhere(("INFO", "server")):
        found = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        version = found.get("redis_version", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
            raise StartError(f"store.redis_url: Redis {version} is too old; chatd needs 7.0 or later")
    try:
        configs = await _configs(engine)
    except Unavailable as exc:
        if said == "auto":
            raise StartError(
                "store.redis_url: this Redis does not tell its configuration (CONFIG GET); "
                "say in store.redis_durability what a commit survives there"
            ) from exc
        return said
    return min((_of(config, said) for config in configs), key=WEAKEST_FIRST.index)


def _of(config: Mapping[str, str], said: str) -> Durability:
    """What one server makes of a commit. Raises: StartError – it will not do."""
    policy, appendonly, appendfsync = (config.get(name) for name in ("maxmemory-policy", "appendonly", "appendfsync"))
    if config.get("maxmemory", "0") != "0" and policy != "noeviction":
        raise StartError(
            f"store.redis_url: maxmemory-policy is {policy}: this Redis throws messages away "
            "when its memory is full; set it to noeviction"
        )
    durability: Durability = "memory"
    if appendonly == "yes":
        durability = "fsync" if appendfsync == "always" else "os"
    if said == "fsync" and durability != "fsync":
        raise StartError(
            f"store.redis_durability: it says fsync, but Redis has appendonly {appendonly} and "
            f"appendfsync {appendfsync}; set them to yes and always"
        )
    return durability


async def _configs(engine: Engine) -> list[dict[str, str]]:
    names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    found = []
    for (flat,) in await engine.everywhere(("CONFIG", "GET", *names)):
        texts = [one.decode() for one in flat]
        found.append(dict(zip(texts[::2], texts[1::2], strict=True)))
    return found


async def masters(node: Node) -> list[str]:
    """The names of all masters that are not known to have failed, as this server sees it. Raises: Unavailable."""
    if not node.met.clustered:
        return [node.met.server]
    (nodes,) = await node.exchange([("CLUSTER", "NODES")], write=False)
    if isinstance(nodes, Exception):
        raise translated(nodes, unknown=False) from nodes
    rows = [line.split() for line in nodes.decode().splitlines()]
    flags = {row[0]: row[2].split(",") for row in rows if len(row) > 2}
    return [name for name, mine in flags.items() if "master" in mine and "fail" not in mine]
