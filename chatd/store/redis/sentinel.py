"""Redis Sentinel: several that watch one master and its replicas, and tell who is the master now."""

from __future__ import annotations

from urllib.parse import urlsplit

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.redis.node import Node, translated

SCHEME = "sentinel"
PORT = 26_379


class Sentinels:
    """``url``: ``sentinel://user:password@host:port,host:port/name/database``; user and password are the master's.

    Raises: ValueError – it is none.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        login, at, hosts = parts.netloc.rpartition("@")
        name, _, database = parts.path.lstrip("/").partition("/")
        if parts.scheme != SCHEME or not hosts or not name:
            raise ValueError("write sentinel://host:port,host:port/name/0")
        self.name = name
        self.node_url = f"redis://{login}{at}localhost/{database or 0}"
        self._nodes = []
        for host in hosts.split(","):
            bare, colon, port = host.rpartition(":")
            address = (bare, int(port)) if colon else (host, PORT)
            self._nodes.append(Node("redis://localhost", timeout_s=timeout_s, connections_max=2, address=address))

    async def master(self) -> tuple[str, int]:
        """Host and port of the master, from the first that knows. Raises: Unavailable – none does."""
        reason: Exception = Unavailable(f"Redis: no sentinel knows a master called {self.name!r}")
        for node in self._nodes:
            try:
                (found,) = await node.exchange([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)], write=False)
            except (Unavailable, OutcomeUnknown) as exc:
                reason = exc
                continue
            if isinstance(found, list):
                return found[0].decode(), int(found[1])
        raise translated(reason, unknown=False) from reason

    async def close(self) -> None:
        """Disconnect."""
        for node in self._nodes:
            await node.close()
