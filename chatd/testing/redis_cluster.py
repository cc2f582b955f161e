"""A real Redis Cluster on loopback ports: masters without replicas, each a child process of its own."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import redis

from chatd.testing.redis_server import START_S, Appendfsync, RedisServer, free_port

SLOTS = 16_384
POLL_S = 0.02


class RedisCluster:
    """``masters`` servers that share the slots evenly. A context manager; starting takes a second or two and blocks."""

    def __init__(self, masters: int = 3, *, appendfsync: Appendfsync | None = "everysec") -> None:
        self.servers = [self._server(appendfsync) for _ in range(masters)]

    @staticmethod
    def _server(appendfsync: Appendfsync | None) -> RedisServer:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "2000",
            "cluster-config-file": "nodes.conf",
        }
        return RedisServer(appendfsync=appendfsync, options=options)

    @property
    def url(self) -> str:
        """Of one of them; it knows the others."""
        return self.servers[0].url

    def __enter__(self) -> RedisCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all and make them a cluster. Raises: RuntimeError – they do not become one."""
        count = len(self.servers)
        for number, server in enumerate(self.servers):
            server.start()
            first, last = SLOTS * number // count, SLOTS * (number + 1) // count - 1
            self.command(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
            # Two servers that join at the same moment must not claim to know the same things.
            self.command(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number in range(1, count):
            server = self.servers[number]
            self.command(0, "CLUSTER", "MEET", "127.0.0.1", server.port, server.option("cluster-port"))
        self.wait()

    def wait(self) -> None:
        """Until all of them agree that the cluster works. Raises: RuntimeError – they do not."""
        deadline_s = time.monotonic() + START_S
        while not all(self._joined(number) for number in range(len(self.servers))):
            if time.monotonic() > deadline_s:
                raise RuntimeError("the servers do not become a cluster")
            time.sleep(POLL_S)

    def _joined(self, number: int) -> bool:
        state = str(self.command(number, "CLUSTER", "INFO"))
        return "cluster_state:ok" in state and len(self.command(number, "CLUSTER", "SLOTS")) >= len(self.servers)

    def command(self, number: int, *args: str | int) -> Any:
        """Tell one server something; its answer, with text for bytes."""
        with redis.Redis(port=self.servers[number].port, decode_responses=True, protocol=2) as client:
            return client.execute_command(*args)

    def node_id(self, number: int) -> str:
        """How the cluster calls this server."""
        return str(self.command(number, "CLUSTER", "MYID"))

    def owner(self, slot: int) -> int:
        """The number of the server that has this slot."""
        ports = [server.port for server in self.servers]
        ranges = self.command(0, "CLUSTER", "SLOTS")
        return next(ports.index(master[1]) for first, last, master, *_ in ranges if first <= slot <= last)

    def move(self, slot: int) -> None:
        """Move a slot with all its keys from one server to the next, as a resharding does, step by step."""
        source = self.owner(slot)
        target = (source + 1) % len(self.servers)
        ids = {number: self.node_id(number) for number in (source, target)}
        self.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := self.command(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            port = self.servers[target].port
            self.command(source, "MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)
        for number in (target, source):
            self.command(number, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def close(self) -> None:
        """Kill all and remove their files."""
        for server in self.servers:
            server.close()
