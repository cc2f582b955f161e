"""``chatd cluster`` on Redis servers of its own, measured as its parts: the router, its workers, Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from chatd import configuration
from chatd.cli.common import self_command
from chatd.store.redis import RedisStore
from chatd.testing.load.process import ServerProcess
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_server import RedisServer

Redis: TypeAlias = RedisServer | RedisCluster
GREETING = "chatd cluster serves on "


class ClusterProcess(ServerProcess):
    """A router with so many workers; `ServerProcess` as a whole."""

    def __init__(self, directory: Path, redis: Redis, workers: int, settings: Mapping[str, str] | None = None) -> None:
        command = (*self_command(), "cluster", "--workers", f"{workers}")
        shared = {
            "CHATD_STORE_KIND": "redis",
            "CHATD_STORE_REDIS_URL": redis.url,
            "CHATD_CLUSTER_BUS_URL": redis.url,
        }
        super().__init__(directory, command, {**shared, **(settings or {})})
        self._redis = redis

    def _ready(self) -> bool:
        return GREETING in self.log_text()

    @property
    def parts(self) -> dict[str, list[int]]:
        """``router``, ``workers`` and ``redis``."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii")
        return {
            "router": [self.pid],
            "workers": [int(pid) for pid in children.split()],
            "redis": [server.pid for server in servers_of(self._redis)],
        }


def servers_of(redis: Redis) -> Sequence[RedisServer]:
    """Its processes."""
    return redis.servers if isinstance(redis, RedisCluster) else [redis]


def store_of(redis: Redis) -> RedisStore:
    """The store in this Redis, for this process."""
    overrides = {"store.kind": "redis", "store.redis_url": redis.url}
    return RedisStore(configuration.load(env={}, overrides=overrides).store)
