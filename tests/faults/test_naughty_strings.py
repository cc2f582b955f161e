"""The big list of naughty strings through a real server: byte for byte, live, in history, and after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from aiohttp import ClientSession
from raw_client import Raw, register, serving

from chatd import protocol

STRINGS: list[str] = json.loads((Path(__file__).parent.parent / "golden" / "blns.json").read_text("utf-8"))
CONV = "alice:bob"


async def live(raw: Raw, count: int) -> list[str | None]:
    """The next bodies as they arrive, acknowledged."""
    bodies: list[str | None] = []
    while len(bodies) < count:
        frame = await raw.read()
        if isinstance(frame, protocol.Messages):
            bodies += [e.body for e in frame.messages]
            await raw.write({"type": "ack", "conv": CONV, "seq": frame.messages[-1].seq})
    return bodies


async def test_every_naughty_string_comes_back_byte_for_byte(tmp_path: Path) -> None:
    good = [s for s in STRINGS if s and "\0" not in s]
    assert len(good) > 450
    async with ClientSession() as http:
        async with serving(tmp_path) as server:
            tokens = await register(http, server.url, "alice", "bob")
            alice = await Raw.connect(http, server.url, tokens["alice"])
            bob = await Raw.connect(http, server.url, tokens["bob"])
            for body in good:
                assert isinstance(await alice.send("bob", body), protocol.Sent), body
            assert await live(bob, len(good)) == good
            assert [e.body for e in await bob.log(CONV)] == good
            server.process.send_signal(signal.SIGKILL)
            await server.process.wait()
        async with serving(tmp_path) as server:
            bob = await Raw.connect(http, server.url, tokens["bob"])
            assert [e.body for e in await bob.log(CONV)] == good


async def test_what_the_protocol_forbids_is_refused_with_a_clear_error(tmp_path: Path) -> None:
    forbidden = {
        '""': ("bad_frame", "empty"),
        '"a\\u0000b"': ("bad_frame", "U+0000"),
        '"\\ud800"': ("bad_frame", "lone surrogate"),
        '"\\udc00\\ud800"': ("bad_frame", "lone surrogate"),
        json.dumps("x" * 16_385): ("too_large", "16384 bytes"),
        json.dumps("é" * 8_193, ensure_ascii=False): ("too_large", "16384 bytes"),
    }
    async with ClientSession() as http, serving(tmp_path) as server:
        tokens = await register(http, server.url, "alice", "bob")
        alice = await Raw.connect(http, server.url, tokens["alice"])
        for body, (code, words) in forbidden.items():
            name = protocol.new_message_id()
            await alice.socket.send_str(f'{{"type":"send","id":"{name}","to":"bob","body":{body}}}')
            answer = await alice.answer(name)
            assert isinstance(answer, protocol.Error)
            assert (answer.code, answer.temporary) == (code, False)
            assert words in answer.message
        biggest = await alice.send("bob", "é" * 8_192)
        assert isinstance(biggest, protocol.Sent)
        assert biggest.seq == 1
