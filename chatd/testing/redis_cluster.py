"""A real Redis Cluster on loopback ports: masters, and a replica of each if wanted, each a child process of its own."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from redis.exceptions import RedisError

from chatd.testing.ports import free_port
from chatd.testing.redis_server import START_S, Appendfsync, RedisServer

SLOTS = 16_384
POLL_S = 0.02


class RedisCluster:
    """``masters`` servers that share the slots evenly. A context manager; starting takes a second or two and blocks.

    ``replicas``: each has one, which comes behind all masters in ``servers`` and takes the place of one that is away
    for some ``node_timeout_ms``.
    """

    def __init__(
        self,
        masters: int = 3,
        *,
        appendfsync: Appendfsync | None = "everysec",
        replicas: bool = False,
        node_timeout_ms: int = 2_000,
    ) -> None:
        self._masters = masters
        self._replicas = replicas
        self._options = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
        self._options["cluster-node-timeout"] = str(node_timeout_ms)
        self._options["cluster-replica-validity-factor"] = "0"  # one that was cut off for long is good enough
        self._options["cluster-allow-replica-migration"] = "no"
        self._options["repl-diskless-sync-delay"] = "0"
        self._options["repl-ping-replica-period"] = "1"  # seconds: a replica has something to confirm soon
        self._appendfsync = appendfsync
        self.servers = [self._server() for _ in range(masters * (1 + replicas))]

    def _server(self) -> RedisServer:
        options = {**self._options, "cluster-port": str(free_port())}
        return RedisServer(appendfsync=self._appendfsync, options=options)

    @property
    def url(self) -> str:
        """Of one of them that runs; it knows the others."""
        return next(server.url for server in self.servers if server.runs or server is self.servers[-1])

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
        count = self._masters
        for number, server in enumerate(self.servers):
            server.start()
            # Two servers that join at the same moment must not claim to know the same things.
            self.command(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < count:
                first, last = SLOTS * number // count, SLOTS * (number + 1) // count - 1
                self.command(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for number in range(1, len(self.servers)):
            self._meet(number)
        self._until(self._agree, "the servers do not become a cluster")
        for number in range(count, len(self.servers)):
            self.command(number, "CLUSTER", "REPLICATE", self.node_id(number - count))
        self.wait()

    def add_master(self) -> int:
        """One more, without slots. Returns: its number."""
        self.servers.append(self._server())
        self.servers[-1].start()
        self._meet(len(self.servers) - 1)
        self.wait()
        return len(self.servers) - 1

    def _meet(self, number: int) -> None:
        server = self.servers[number]
        self.command(0, "CLUSTER", "MEET", "127.0.0.1", server.port, server.option("cluster-port"))

    def wait(self) -> None:
        """Until all that run agree that the cluster works, with every replica in step. Raises: RuntimeError."""
        self._until(lambda: self._agree() and self._in_step(), "the servers do not become a cluster again")

    @staticmethod
    def _until(holds: Any, otherwise: str) -> None:
        deadline_s = time.monotonic() + START_S
        while not holds():
            if time.monotonic() > deadline_s:
                raise RuntimeError(otherwise)
            time.sleep(POLL_S)

    @property
    def running(self) -> list[int]:
        """The numbers of those that run."""
        return [number for number, server in enumerate(self.servers) if server.runs]

    def _agree(self) -> bool:
        views = set()
        for number in self.running:
            state = str(self.command(number, "CLUSTER", "INFO"))
            if "cluster_state:ok" not in state or f"cluster_known_nodes:{len(self.servers)}" not in state:
                return False
            views.add(tuple(sorted((*span[:2], *span[2][1:2]) for span in self.command(number, "CLUSTER", "SLOTS"))))
        return len(views) == 1

    def _in_step(self) -> bool:
        """Whether each master that runs has its replica, which has all that it has, if they have replicas.

        A replica is fed, and so confirms what comes, only after it has spoken up once since it was filled,
        which takes it a second at most.
        """
        told = [self.command(number, "INFO", "replication") for number in self.running]
        replicas = sum("role:slave" in one and "master_link_status:up" in one for one in told)
        online = sum("state=online" in one and "offset=0," not in one for one in told)
        return replicas == online == (self._masters if self._replicas else 0)

    def command(self, number: int, *args: str | int) -> Any:
        """Tell one server something; its answer, with text for bytes."""
        return self.servers[number].command(*args)

    def node_id(self, number: int) -> str:
        """How the cluster calls this server."""
        return str(self.command(number, "CLUSTER", "MYID"))

    @property
    def masters(self) -> list[int]:
        """The numbers of those that run and have slots."""
        ports = {span[2][1] for span in self.command(self.running[0], "CLUSTER", "SLOTS")}
        return [number for number in self.running if self.servers[number].port in ports]

    def owner(self, slot: int) -> int:
        """The number of the server that has this slot."""
        ports = [server.port for server in self.servers]
        ranges = self.command(self.running[0], "CLUSTER", "SLOTS")
        return next(ports.index(master[1]) for first, last, master, *_ in ranges if first <= slot <= last)

    def move(self, slot: int, target: int | None = None) -> None:
        """Move a slot with all its keys from one server to the next, as a resharding does, step by step.

        Raises: RuntimeError – the servers do not agree on who has it.
        """
        self._until(self._agree, "the servers do not agree on their slots")
        source, masters = self.owner(slot), self.masters
        if target is None:
            target = masters[(masters.index(source) + 1) % len(masters)]
        ids = {number: self.node_id(number) for number in (source, target)}
        self.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := self.command(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            port = self.servers[target].port
            self.command(source, "MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)
        others = [number for number in masters if number not in ids]
        for number in (target, source, *others):
            self.command(number, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def fail_over(self, number: int) -> None:
        """Kill a master and wait until its replica has taken its place. Raises: RuntimeError – it does not."""
        spans = [span for span in self.command(number, "CLUSTER", "SLOTS") if span[2][1] == self.servers[number].port]
        self.servers[number].kill()

        def moved() -> bool:
            try:
                return self.owner(spans[0][0]) != number and self._agree()
            except RedisError:  # CLUSTERDOWN
                return False

        self._until(moved, "no replica takes the place of the master")

    def close(self) -> None:
        """Kill all and remove their files."""
        for server in self.servers:
            server.close()
