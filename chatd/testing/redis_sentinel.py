"""A real Redis Sentinel on loopback ports: a master, its replica, and a sentinel that puts one in the other's place."""

from __future__ import annotations

import time
from types import TracebackType

from chatd.testing.redis_server import START_S, Appendfsync, RedisServer

NAME = "chat"
DOWN_MS = 1_200  # less, and a busy machine would have failovers that nobody wanted
POLL_S = 0.02


class RedisSentinel:
    """``servers``: the master and its replica. A context manager; starting takes a second or two and blocks."""

    def __init__(self, *, appendfsync: Appendfsync | None = "always") -> None:
        at_once = {"repl-diskless-sync-delay": "0"}
        master = RedisServer(appendfsync=appendfsync, options=at_once)
        options = {"replicaof": f"127.0.0.1 {master.port}", **at_once}
        self.servers = [master, RedisServer(appendfsync=appendfsync, options=options)]
        watch = {
            f"sentinel monitor {NAME}": f"127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {NAME}": str(DOWN_MS),
            f"sentinel failover-timeout {NAME}": "1000",
        }
        self.sentinel = RedisServer(options=watch, arguments=["--sentinel"])

    @property
    def url(self) -> str:
        """``sentinel://127.0.0.1:port/chat/0``."""
        return f"sentinel://127.0.0.1:{self.sentinel.port}/{NAME}/0"

    def __enter__(self) -> RedisSentinel:
        try:
            self.servers[0].start()
            self.servers[1].start()
            self._wait(self.servers[1], "replication", "master_link_status:up")
            self.sentinel.start()
            self._wait(self.sentinel, "sentinel", "slaves=1")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fail_over(self) -> None:
        """Kill the master and wait until the replica has taken its place."""
        dead, heir = self.servers
        dead.kill()
        self._wait(heir, "replication", "role:master")
        self._wait(self.sentinel, "sentinel", f"address=127.0.0.1:{heir.port}")
        heir.set_option("replicaof", "no one")
        self.servers = [heir, dead]

    def rejoin(self) -> None:
        """Start the dead one as the replica of the other; it is ready to take its place then."""
        master, replica = self.servers
        replica.set_option("replicaof", f"127.0.0.1 {master.port}")
        replica.start()
        self._wait(replica, "replication", "master_link_status:up")
        self._wait(master, "replication", "state=online")
        self._wait(self.sentinel, "sentinel", "slaves=1")

    @staticmethod
    def _wait(server: RedisServer, section: str, text: str) -> None:
        deadline_s = time.monotonic() + START_S
        while text not in server.command("INFO", section):
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"INFO {section} never says {text}")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill all and remove their files."""
        for server in (self.sentinel, *self.servers):
            server.close()
