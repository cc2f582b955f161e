"""``chatd serve`` and ``chatd chat`` with TLS, and what is refused without it."""

from __future__ import annotations

import shutil
import signal

import pytest
from cli_rig import Place

from chatd.testing.certificates import write_pair


async def test_two_chat_over_tls_and_sighup_renews_the_certificate(place: Place) -> None:
    pair = write_pair(place.directory)
    place.env |= {
        "CHATD_SERVER_TLS_CERTIFICATE": str(pair.certificate),
        "CHATD_SERVER_TLS_KEY": str(pair.key),
        "SSL_CERT_FILE": str(pair.certificate),
    }
    async with place.serving() as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert (await place.run("user", "add", "bob", "--no-password")).code == 0
        token = (await place.run("token", "issue", "bob")).out.strip()
        wss = server.url.replace("https", "wss")
        async with await place.start("tail", f"bob@{wss}", "--token", token) as tail:
            sent = await place.run(
                "send", f"alice@{server.url}", "bob", "sealed", "--register", "--password-stdin", given="alicealice\n"
            )
            assert (sent.code, sent.out) == (0, "✓ bob 1\n")
            await tail.until(r"alice: sealed\n")
            new = write_pair(place.directory, "renewed")
            shutil.copy(new.certificate, pair.certificate)
            shutil.copy(new.key, pair.key)
            server.process.send_signal(signal.SIGHUP)
            await server.until("tls_renewed")
            sent = await place.run("send", f"alice@{server.url}", "bob", "again")
            assert (sent.code, sent.out) == (0, "✓ bob 2\n")
            await tail.until(r"alice: again\n")  # through the connection that was there before
        place.env["SSL_CERT_FILE"] = ""
        refused = await place.run("send", f"carol@{server.url}", "bob", "hi", "--password-stdin", given="carolcarol\n")
        assert refused.code == 1
        assert "certificate" in refused.err


@pytest.mark.parametrize("verb", [["serve"], ["cluster", "--workers", "0"], ["config", "check"]])
async def test_a_bad_pair_and_cleartext_for_others_are_refused_in_one_line(place: Place, verb: list[str]) -> None:
    place.env["CHATD_SERVER_HOST"] = "0.0.0.0"
    refused = await place.run(*verb)
    assert refused.code == 78
    assert refused.err.startswith("chatd: server.host: other machines reach 0.0.0.0")
    assert refused.err.count("\n") == 1
    place.env["CHATD_SERVER_TLS_CERTIFICATE"] = "nothing.pem"
    refused = await place.run(*verb)
    assert (refused.code, refused.err.count("\n")) == (78, 1)
    assert "server.tls_key: the certificate and its key are needed together" in refused.err
    place.env["CHATD_SERVER_TLS_KEY"] = "nothing.key"
    refused = await place.run(*verb)
    assert refused.code == 78
    told = refused.err.splitlines()[-1]
    assert ("config/nginx.conf" in told) if verb[0] == "cluster" else ("nothing.pem: No such file" in told)


async def test_with_the_flag_it_listens_for_others_without_tls(place: Place) -> None:
    place.env["CHATD_ACCOUNTS_REGISTRATION"] = "closed"
    async with place.serving("--host", "0.0.0.0", "--allow-cleartext") as server:
        assert server.url.startswith("http://127.0.0.1:")


async def test_a_worker_behind_a_router_has_no_tls(place: Place) -> None:
    pair = write_pair(place.directory)
    place.env |= {"CHATD_SERVER_TLS_CERTIFICATE": str(pair.certificate), "CHATD_SERVER_TLS_KEY": str(pair.key)}
    refused = await place.run("serve", "--handed", "worker.sock")
    assert refused.code == 78
    assert "chatd serve" in refused.err
