"""Who may read the metrics, and where."""

from __future__ import annotations

import socket

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from scraping_rig import page, parse

from chatd.app import Server
from chatd.configuration import load
from chatd.errors import ConfigError, Forbidden, StartError
from chatd.settings import host_and_port
from chatd.testing import ChatServer
from chatd.transport.scraping import PASSED_ON, check_reader


class Transport:
    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self._address, 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False


def request_from(address: str, headers: dict[str, str] | None = None) -> web.Request:
    return make_mocked_request("GET", "/metrics", headers=headers, transport=Transport(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_read(address: str) -> None:
    check_reader(request_from(address))


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::2", "::ffff:192.0.2.1", "", "127.evil"])
def test_nobody_else_may(address: str) -> None:
    with pytest.raises(Forbidden, match=r"set server\.metrics_listen"):
        check_reader(request_from(address))


@pytest.mark.parametrize("header", PASSED_ON)
async def test_what_a_proxy_of_this_machine_passes_on_is_not_from_this_machine(header: str) -> None:
    async with ChatServer() as server:
        status, text = await page(f"{server.url}/metrics", {header: "127.0.0.1"})
        assert (status, "metrics_listen" in text, "chatd_commits" in text) == (403, True, False)
        assert (await page(f"{server.url}/metrics"))[0] == 200


async def test_a_listener_of_their_own_takes_them_from_the_main_port() -> None:
    async with ChatServer(settings={"server.metrics_listen": "127.0.0.1:0"}) as server:
        own = f"http://127.0.0.1:{server.server.listening.metrics_port}"
        status, text = await page(f"{own}/metrics", {"X-Forwarded-For": "192.0.2.1"})
        assert status == 200
        assert parse(text)["chatd_connections"] == 0
        assert (await page(f"{server.url}/metrics"))[0] == 404
        for path in ("/", "/healthz", "/v1/openapi.json"):
            assert (await page(own + path))[0] == 404
    with pytest.raises(OSError, match="Cannot connect"):
        await page(f"{own}/metrics")


async def test_a_listener_on_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        overrides = {"server.metrics_listen": listen, "server.port": 0, "store.kind": "memory"}
        server = Server(load(env={}, overrides=overrides))
        with pytest.raises(StartError, match=rf"server\.metrics_listen {listen}: .*name another"):
            await server.start()


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_an_address_is_taken_apart(text: str, parts: tuple[str, int]) -> None:
    assert host_and_port(text) == parts


@pytest.mark.parametrize("text", ["9464", ":9464", "localhost:", "::1:9464", "[localhost]:1", "a:70000", "a:-1", "a:٣"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^server\.metrics_listen: "):
        load(env={}, overrides={"server.metrics_listen": text})
