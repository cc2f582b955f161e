"""TLS of the server's own: what it speaks, how a pair is replaced, and what is refused in one line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
from pathlib import Path
from unittest.mock import patch

import aiohttp
import pytest
import structlog
from cryptography import x509

from chatd.errors import ConfigError
from chatd.settings import ServerSettings
from chatd.testing import ChatServer
from chatd.testing.certificates import Pair, write_pair
from chatd.transport import tls
from chatd.transport.tls import Certificate, require_encryption

PATIENCE_S = 20.0


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return write_pair(tmp_path)


def settings_of(pair: Pair, **more: object) -> dict[str, object]:
    return {"server.tls_certificate": str(pair.certificate), "server.tls_key": str(pair.key), **more}


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.certificate))


async def shown(server: ChatServer) -> str:
    """The common name of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", server.server.port, ssl=context)
    found = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
    writer.transport.abort()
    return str(found.subject.rfc4514_string())


async def until_shown(server: ChatServer, name: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await shown(server) != f"CN={name}":
            pass


async def test_the_api_and_a_websocket_over_tls_with_a_name_that_is_checked(pair: Pair) -> None:
    async with ChatServer(users=["alice"], settings=settings_of(pair)) as server, aiohttp.ClientSession() as http:
        assert server.url == f"https://127.0.0.1:{server.server.port}"
        async with http.get(f"{server.url}/healthz", ssl=trusting(pair)) as answer:
            assert answer.status == 200
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        url = f"wss://localhost:{server.server.port}/v1/ws"
        async with http.ws_connect(url, protocols=("chatd.v1",), ssl=trusting(pair)) as socket:
            await socket.send_str(json.dumps({"type": "hello", "token": await server.token("alice")}))
            assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "welcome"
            await server.server.accounts.disable("alice")
            while not socket.closed:
                await socket.receive(timeout=PATIENCE_S)
            assert socket.close_code == 4403
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(f"{server.url}/healthz")


@pytest.mark.parametrize(("version", "spoken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_nothing_older_than_tls_1_2_is_spoken(pair: Pair, version: str, spoken: bool) -> None:
    context = trusting(pair)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this side refuses the old ones itself
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with ChatServer(settings=settings_of(pair)) as server:
        opened = asyncio.open_connection("127.0.0.1", server.server.port, ssl=context)
        if spoken:
            _, writer = await opened
            assert writer.get_extra_info("ssl_object").version() == version.replace("_", ".")
            writer.transport.abort()
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await opened


async def test_cleartext_on_the_port_of_tls_is_answered_by_nothing(pair: Pair) -> None:
    async with ChatServer(settings=settings_of(pair)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert b"HTTP" not in await reader.read()
        writer.transport.abort()


async def test_who_never_ends_its_handshake_is_cut_in_time(pair: Pair) -> None:
    async with ChatServer(settings=settings_of(pair, **{"timing.head_s": 0.05})) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.transport.abort()


async def test_a_new_pair_is_shown_to_who_comes_and_nobody_is_cut(pair: Pair, tmp_path: Path) -> None:
    with patch.object(tls, "LOOK_S", 0.02):
        async with ChatServer(settings=settings_of(pair)) as server, aiohttp.ClientSession() as http:
            url = f"wss://localhost:{server.server.port}/v1/ws"
            async with http.ws_connect(url, protocols=("chatd.v1",), ssl=trusting(pair)) as old:
                assert await shown(server) == "CN=server"
                new = write_pair(tmp_path, "renewed")
                with structlog.testing.capture_logs() as logged:
                    shutil.copy(new.certificate, pair.certificate)  # half of it: the key is still the old one
                    async with asyncio.timeout(PATIENCE_S):
                        while not any(line["event"] == "tls_not_renewed" for line in logged):
                            assert await shown(server) == "CN=server"
                    os.replace(new.key, pair.key)
                    await until_shown(server, "renewed")
                assert str(pair.key) in next(line["error"] for line in logged if line["event"] == "tls_not_renewed")
                await old.send_str("{}")  # no hello: it is answered, so the connection lives
                assert (await old.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.TEXT


async def test_the_signal_renews_at_once_and_a_missing_file_changes_nothing(pair: Pair, tmp_path: Path) -> None:
    async with ChatServer(settings=settings_of(pair)) as server:
        certificate = server.server.listening.certificate
        assert certificate is not None
        new = write_pair(tmp_path, "renewed")
        shutil.copy(new.certificate, pair.certificate)
        pair.key.unlink()
        with structlog.testing.capture_logs() as logged:
            assert certificate.renew() is False
            assert await shown(server) == "CN=server"
            shutil.copy(new.key, pair.key)
            assert certificate.renew() is True
            assert await shown(server) == "CN=renewed"
        assert [line["event"] for line in logged] == ["tls_not_renewed", "tls_renewed"]


def test_a_pair_that_cannot_be_used_is_told_in_one_line(pair: Pair, tmp_path: Path) -> None:
    other, locked = write_pair(tmp_path, "other"), write_pair(tmp_path, "locked", passphrase=b"xyz")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    for certificate, key, told in (
        (tmp_path / "none.pem", pair.key, "server.tls_certificate: .*none.pem: No such file or directory"),
        (pair.certificate, tmp_path, "server.tls_key: .*: Is a directory"),
        (pair.certificate, other.key, "server.tls_key: .*other.key is not the key of the certificate in .*server.pem"),
        (locked.certificate, locked.key, "server.tls_key: .*locked.key has a passphrase"),
        (empty, pair.key, "server.tls_certificate, server.tls_key: .*empty.pem .* are no certificate and key in PEM"),
        (pair.certificate, empty, "server.tls_certificate, server.tls_key: .*empty.pem are no certificate and key in"),
    ):
        with pytest.raises(ConfigError, match=told):
            Certificate(ServerSettings(tls_certificate=str(certificate), tls_key=str(key)))


def test_what_openssl_takes_and_cannot_be_read_is_refused_and_the_old_pair_stays(pair: Pair) -> None:
    certificate = Certificate(ServerSettings(tls_certificate=str(pair.certificate), tls_key=str(pair.key)))
    until = certificate.until
    trusted = pair.certificate.read_text().replace(" CERTIFICATE", " TRUSTED CERTIFICATE")  # openssl x509 -trustout
    pair.certificate.write_text(trusted)
    with structlog.testing.capture_logs() as logged:
        assert certificate.renew() is False
    assert [line["event"] for line in logged] == ["tls_not_renewed"]
    assert certificate.until == until


def test_a_pair_that_has_ended_is_taken_and_warned_of(pair: Pair, tmp_path: Path) -> None:
    certificate = Certificate(ServerSettings(tls_certificate=str(pair.certificate), tls_key=str(pair.key)))
    write_pair(tmp_path, days=-1)
    with structlog.testing.capture_logs() as logged:
        assert certificate.renew() is True
    assert [line["event"] for line in logged] == ["tls_renewed", "tls_certificate_expired"]


def test_a_certificate_that_has_ended_is_warned_of(tmp_path: Path) -> None:
    ended = write_pair(tmp_path, days=-1)
    with structlog.testing.capture_logs() as logged:
        Certificate(ServerSettings(tls_certificate=str(ended.certificate), tls_key=str(ended.key))).warn()
    assert [line["event"] for line in logged] == ["tls_certificate_expired"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.2", "192.0.2.1", "2001:db8::1", "chat.example", ""])
def test_an_address_that_others_reach_needs_tls_or_a_word(host: str, pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"tls_certificate and server\.tls_key, or, .* server\.allow_cleartext"):
        require_encryption(ServerSettings(host=host))
    require_encryption(ServerSettings(host=host, allow_cleartext=True))
    require_encryption(ServerSettings(host=host, tls_certificate="x", tls_key="x"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    require_encryption(ServerSettings(host=host))
