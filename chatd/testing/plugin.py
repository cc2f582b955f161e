"""pytest fixtures of chatd: ``chatd_server``, ``chatd_client``, ``chatd_redis``. They need pytest-asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from chatd.client import Client
    from chatd.testing.redis_cluster import RedisCluster
    from chatd.testing.redis_server import RedisServer
    from chatd.testing.server import ChatServer

MakeClient: TypeAlias = "Callable[..., Awaitable[Client]]"


@pytest_asyncio.fixture
async def chatd_server() -> AsyncIterator[ChatServer]:
    """A server with a memory store and the users alice and bob, for one test."""
    from chatd.testing.server import ChatServer  # not before a test asks: importing it is work

    async with ChatServer(users=["alice", "bob"]) as server:
        yield server


@pytest_asyncio.fixture
async def chatd_client(chatd_server: ChatServer) -> MakeClient:
    """Makes connected clients of `chatd_server`: ``alice = await chatd_client("alice")``."""
    return chatd_server.client


@pytest.fixture(scope="session")
def chatd_redis() -> Iterator[RedisServer]:
    """One ``redis-server`` for all tests of a session, which share it by prefixes of their own."""
    from chatd.testing.redis_server import RedisServer

    with RedisServer(appendfsync="everysec") as server:
        yield server


@pytest.fixture(scope="session")
def chatd_redis_cluster() -> Iterator[RedisCluster]:
    """One Redis Cluster of three masters for all tests of a session."""
    from chatd.testing.redis_cluster import RedisCluster

    with RedisCluster() as cluster:
        yield cluster


@pytest.hookimpl(tryfirst=True)
def pytest_report_header() -> str:
    """Says which chatd the fixtures are of."""
    from chatd import __version__

    return f"chatd {__version__}"
