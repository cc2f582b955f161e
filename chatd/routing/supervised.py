"""The operator's side of a cluster on one host: how its supervisor and workers are, and to take some of it away."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from chatd import __version__
from chatd.errors import Forbidden, NotFound
from chatd.routing.router import Router
from chatd.routing.supervisor import Supervisor
from chatd.stats import ClusterSnapshot, Worker

log = structlog.get_logger("chatd.supervisor")


class ClusterOperations:
    """Asks ``supervisor`` and ``router``. ``on_drain`` ends all of it in order; ``draining``: that has begun."""

    def __init__(
        self,
        supervisor: Supervisor,
        router: Router,
        *,
        on_drain: Callable[[], None],
        draining: Callable[[], bool],
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._supervisor = supervisor
        self._router = router
        self._on_drain = on_drain
        self._draining = draining
        self._now_s = now_s
        self._now_ms = now_ms
        self._began_s = now_s()

    async def status(self) -> ClusterSnapshot:
        """How the workers are, and how many nodes of other hosts can be reached."""
        nodes = self._router.nodes
        return ClusterSnapshot(
            pid=os.getpid(),
            version=__version__,
            at_ms=self._now_ms(),
            up_s=self._now_s() - self._began_s,
            draining=self._draining(),
            workers=tuple(self._worker(name) for name in self._supervisor.names),
            nodes=len(nodes),
            nodes_ready=sum(map(self._router.ready, nodes)),
        )

    async def drain(self, worker: str = "") -> None:
        """Begin to end ``worker`` in order, which then stays away until SIGHUP; without a name end all, as at SIGTERM.

        Raises: NotFound – there is no such worker. Forbidden – no other one is ready to take its users.
        """
        if not worker:
            if not self._draining():
                log.info("drain_asked_for")
                self._on_drain()
            return
        if worker not in self._supervisor.names:
            raise NotFound(f"there is no {worker}: the workers are {', '.join(self._supervisor.names) or 'none'}")
        others = [name for name in (*self._supervisor.names, *self._router.nodes) if name != worker]
        if not any(map(self._router.ready, others)):
            raise Forbidden(f"no other worker is ready to take the users of {worker}; `chatd drain` ends all of them")
        log.info("drain_asked_for", worker=worker)
        self._supervisor.drain(worker)

    def _worker(self, name: str) -> Worker:
        state = self._supervisor.state(name, ready=self._router.ready(name))
        pid = self._supervisor.pid(name)
        return Worker(name=name, state=state, pid=pid, starts=self._supervisor.starts(name))
