"""Ports for servers that tests start and start again."""

from __future__ import annotations

import itertools
import random
import socket

PORTS = range(20_000, 32_000)
"""Below those that kernels give to outgoing connections (Linux: from 32,768): a server that is to be started in a
moment, or again, must not find that some client has its port meanwhile."""

_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A loopback TCP port that nobody listens on now; the next calls give others. Raises: RuntimeError – none is."""
    for port in itertools.islice(_ports, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody has it
                continue
            return port
    raise RuntimeError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")
