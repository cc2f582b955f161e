"""What friends and foes do to a real server, and all that it printed meanwhile.

Each deed comes from an address of its own (a trusted proxy says so), so that a line can be held against who caused it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from msgspec import Struct, field

from chatd.protocol import new_message_id
from chatd.testing.push_service import FakePushService, Reply
from chatd.transport.door import HEAD_BYTES_MAX

PATIENCE_S = 30.0
LAUNCHER = Path(__file__).with_name("faulty_server.py")
SPOOFED = "198.51.100.66"
"""What clients claim to be in headers that are not believed, and in texts that end up in the log."""


class Canaries(Struct):
    """Secrets of one run, each of them unlike anything else. ``grow`` makes and remembers one."""

    all: dict[str, str] = field(default_factory=dict)

    def grow(self, what: str) -> str:
        made = f"canary-{what}-{secrets.token_hex(8)}"
        self.all[what] = made
        return made

    def found_in(self, text: str) -> dict[str, str]:
        """Which canaries sing in the text, as they are or in the guises in which one would be printed."""
        found = {}
        for what, secret in self.all.items():
            raw = secret.encode()
            guises = {secret, raw.hex(), urllib.parse.quote(secret, safe=""), repr(raw)[2:-1]}
            guises |= {base64.b64encode(b"x" * pad + raw)[4:-4].decode() for pad in range(3)}
            if sung := [one for one in guises if one in text]:
                found[what] = sung[0]
        return found


class Story(Struct):
    """``printed``: standard output and error; ``foes``: address → the event that it must have caused."""

    printed: str
    canaries: Canaries
    foes: dict[str, str]
    friends: set[str]


async def tell(directory: Path, log_format: str) -> Story:
    """Run the server, do everything, end it."""
    canaries = Canaries()
    async with FakePushService() as service:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHATD_")},
            "CHATD_SERVER_LOG_FORMAT": log_format,
            "CHATD_SERVER_LOG_LEVEL": "debug",
            "CHATD_SERVER_TRUSTED_PROXIES": "127.0.0.1",
            "CHATD_ACCOUNTS_REGISTRATION": "invite",
            "CHATD_PUSH_DELAY_S": "0",
            "CHATD_PUSH_BODY": "true",
            "CHATD_PUSH_PRIVATE_ENDPOINTS": "true",
            "CHATD_PUSH_WEBHOOK_URL": service.url("/hook"),
            "CHATD_PUSH_WEBHOOK_SECRET": canaries.grow("webhook-secret"),
            "CHATD_LIMITS_FRAMES_BURST": "60",
            "CHATD_LIMITS_FRAMES_PER_S": "1",
        }
        service.script(Reply(500), Reply(400), Reply(201))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(LAUNCHER), "serve", "--port", "0", "--data-dir", str(directory / "data")),
            cwd=directory,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed = _Printed(process)
        try:
            url = (await printed.until(r"serves on (http://\S+)"))[1]
            invite = (await printed.until(r"/join#(\S+)"))[1]  # it is for the operator's eyes, and no log line
            async with ClientSession() as http:
                story = _Deeds(http, url, canaries, directory, env)
                await story.all_of_them(invite)
            process.send_signal(signal.SIGTERM)
            await printed.rest()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return Story(printed.text, canaries, story.foes, story.friends)


class _Printed:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self._stdout = process.stdout
        self.text = ""

    async def until(self, pattern: str) -> re.Match[str]:
        async with asyncio.timeout(PATIENCE_S):
            while (found := re.search(pattern, self.text)) is None:
                line = await self._stdout.readline()
                assert line, self.text
                self.text += line.decode()
        return found

    async def rest(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            self.text += (await self._stdout.read()).decode()


class _Deeds:
    def __init__(self, http: ClientSession, url: str, canaries: Canaries, place: Path, env: dict[str, str]) -> None:
        self._http, self._url, self._canaries, self._place, self._env = http, url, canaries, place, env
        self._hosts = iter(range(1, 255))
        self.foes: dict[str, str] = {}
        self.friends: set[str] = set()

    async def all_of_them(self, invite: str) -> None:
        """In the order in which the later need the earlier."""
        tokens = {"alice": await self._join("alice", invite)}
        for name in ("bob", "carol"):
            code = (await self._chatd("user", "invite")).strip()
            self._canaries.all[f"invite of {name}"] = code
            tokens[name] = await self._join(name, code)
        await self._knock_in_vain()
        await self._talk_over_http(tokens)
        await self._talk_over_websockets(tokens)
        await self._break_things(tokens)
        await self._administer(tokens)

    # --- deeds ----------------------------------------------------------------------------------------

    async def _join(self, user: str, invite: str) -> str:
        password = self._canaries.grow(f"password-of-{user}")
        friend = self._friend()
        account = {"user": user, "password": password}
        assert (await self._post("register", {**account, "invite": invite}, friend))[0] == 201
        status, answer = await self._post("login", {**account, "name": "phone"}, friend)
        assert status == 200
        self._canaries.all[f"token of {user}"] = answer["token"]
        return str(answer["token"])

    async def _knock_in_vain(self) -> None:
        guess = self._canaries.grow("guessed-password")
        foe = self._foe("login_failed")
        forged = f'x"}}\n{{"event":"login_failed","address":"{SPOOFED}","\x1b[2J\u202e'
        for user in ("alice", "nobody", forged):
            assert (await self._post("login", {"user": user, "password": guess}, foe))[0] == 401
        foe = self._foe("register_refused")
        secret = {"password": guess, "invite": self._canaries.grow("guessed-invite")}
        assert (await self._post("register", {"user": "mallory", **secret}, foe))[0] == 403
        foe = self._foe("token_refused")
        headers = {**foe, "Authorization": f"Bearer {self._canaries.grow('guessed-token')}"}
        async with self._http.get(f"{self._url}/v1/devices", headers=headers) as answer:
            assert answer.status == 401
        in_url = f"{self._url}/v1/devices?token={self._canaries.grow('token-in-a-url')}"
        async with self._http.get(in_url, headers=self._friend()) as answer:
            assert answer.status == 401
        for head in (
            f"GET /v1/devices HTTP/1.1\r\nHost: x\r\nUser-Agent: {SPOOFED}\x1b[31m",
            f"G\x1bT /{SPOOFED}\x00 X",
        ):
            await self._raw(f"{head}\r\nConnection: close\r\n\r\n")
        await self._begin_and_never_end()
        async with self._http.get(f"{self._url}/%0a{SPOOFED}%1b[2J", headers=self._friend()) as answer:
            assert answer.status == 404
        foe = self._foe("origin_refused")
        async with self._http.get(f"{self._url}/v1/ws", headers={**foe, "Origin": f"https://{SPOOFED}"}) as answer:
            assert answer.status == 403
        foe = self._foe("rate_limited")
        statuses = {(await self._post("login", {"user": "alice", "password": guess}, foe))[0] for _ in range(21)}
        assert statuses == {401, 429}

    async def _begin_and_never_end(self) -> None:
        """Such a head cannot be believed about its client, so one comes past the proxy, and one through it."""
        head = f"GET /v1/ws HTTP/1.1\r\nX-Forwarded-For: {SPOOFED}\r\nX: ".ljust(HEAD_BYTES_MAX + 1, "x")
        for foe, what in (("127.0.0.2", head), ("127.0.0.3", f"{head[:60]}\x00\r\n\r\n")):
            await self._raw(what, come_from=foe)
            self.foes[foe] = "head_refused"
        await self._raw(head)

    async def _talk_over_http(self, tokens: dict[str, str]) -> None:
        mine = {"Authorization": f"Bearer {tokens['alice']}", **self._friend()}
        body = {"to": "bob", "id": new_message_id(), "body": self._canaries.grow("body-over-http")}
        assert (await self._post("messages", body, mine))[0] == 201
        other = {**body, "body": self._canaries.grow("body-of-a-used-id")}
        assert (await self._post("messages", other, mine))[0] == 409
        for wrong in (
            {"to": "nobody", "id": new_message_id(), "body": self._canaries.grow("body-to-nobody")},
            {"to": 7, "id": new_message_id(), "body": self._canaries.grow("body-of-no-shape")},
            {"to": "bob", "id": new_message_id(), "body": self._canaries.grow("large-body") * 800},
        ):
            assert (await self._post("messages", wrong, mine))[0] >= 400
        async with self._http.post(f"{self._url}/v1/messages", data=b'{"body": "' + b"canary" * 3, headers=mine) as bad:
            assert bad.status == 400
        fails = {"to": "bob", "id": new_message_id(), "body": f"fail-in-draft {self._canaries.grow('body-of-a-500')}"}
        assert (await self._post("messages", fails, mine))[0] == 500

    async def _talk_over_websockets(self, tokens: dict[str, str]) -> None:
        bob = await self._hello(tokens["bob"])
        alice = await self._hello(tokens["alice"], self._foe("token_refused"))
        for word in ("", "fail-in-fan-out "):
            body = word + self._canaries.grow(f"body-{word.strip() or 'live'}")
            await alice.send_json({"type": "send", "id": new_message_id(), "to": "bob", "body": body})
            await _until(alice, "sent")
        wrong = self._canaries.grow("token-of-another")
        for frame in (
            {"type": "auth", "token": wrong, "ref": 1},
            {"type": wrong, "body": self._canaries.grow("body-of-no-frame"), "ref": 2},
            {"type": "send", "id": "no id", "to": "bob", "body": self._canaries.grow("body-of-a-bad-frame"), "ref": 3},
            {"type": "watch", "users": ["bob"], "ref": 4},
        ):
            await alice.send_json(frame)
            assert (await _until(alice, "error"))["ref"] == frame["ref"]
        body = f"fail-in-draft {self._canaries.grow('body-that-breaks-a-session')}"
        await alice.send_json({"type": "send", "id": new_message_id(), "to": "bob", "body": body})
        assert await _closed(alice) == 1011
        await bob.close()

    async def _break_things(self, tokens: dict[str, str]) -> None:
        foe = self._foe("protocol_broken")
        broken = await self._hello(tokens["carol"], foe)
        await broken.send_str('{"type": "send", "body": "' + self._canaries.grow("body-of-broken-json"))
        assert await _closed(broken) == 4400
        binary = await self._hello(tokens["carol"], foe)
        await binary.send_bytes(self._canaries.grow("binary-body").encode())
        assert await _closed(binary) == 1003
        stranger = await self._socket(foe)
        await stranger.send_json({"type": "hello", "token": self._canaries.grow("token-in-a-hello")})
        assert await _closed(stranger) == 4401
        fast = await self._hello(tokens["carol"])
        for number in range(80):
            await fast.send_json({"type": "ping", "ref": number})
        assert (await _until(fast, "error"))["code"] == "rate_limited"
        await fast.close()

    async def _administer(self, tokens: dict[str, str]) -> None:
        given = self._canaries.grow("password-by-the-administration")
        await self._chatd("user", "passwd", "carol", "--password-stdin", given=f"{given}\n")
        self._canaries.all["issued token"] = (await self._chatd("token", "issue", "bob")).strip()
        await self._chatd("user", "disable", "carol")
        mine = {"Authorization": f"Bearer {tokens['alice']}", **self._friend()}
        assert (await self._post("logout", {}, mine))[0] == 204

    # --- means ----------------------------------------------------------------------------------------

    def _address(self) -> str:
        return f"203.0.113.{next(self._hosts)}"

    def _friend(self) -> dict[str, str]:
        address = self._address()
        self.friends.add(address)
        return _from(address)

    def _foe(self, event: str) -> dict[str, str]:
        address = self._address()
        self.foes[address] = event
        return _from(address)

    async def _post(self, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        async with self._http.post(f"{self._url}/v1/{path}", data=msgspec.json.encode(body), headers=headers) as answer:
            data = await answer.read()
            return answer.status, msgspec.json.decode(data) if data else None

    async def _raw(self, head: str, *, come_from: str = "127.0.0.1") -> None:
        """A head that no library sends."""
        parts = urllib.parse.urlsplit(self._url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(come_from, 0))
        writer.write(head.encode())
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
        finally:
            writer.close()
        assert b" 4" in answer.partition(b"\r\n")[0], answer

    async def _socket(self, headers: dict[str, str]) -> ClientWebSocketResponse:
        return await self._http.ws_connect(f"{self._url}/v1/ws", protocols=("chatd.v1",), headers=headers)

    async def _hello(self, token: str, headers: dict[str, str] | None = None) -> ClientWebSocketResponse:
        socket = await self._socket(headers or self._friend())
        await socket.send_json({"type": "hello", "token": token})
        await _until(socket, "caught_up")
        return socket

    async def _chatd(self, *args: str, given: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chatd", *args),
            cwd=self._place,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate(given.encode())
        assert process.returncode == 0, args
        return out.decode()


def _from(address: str) -> dict[str, str]:
    """What the proxy adds stands last; what the client claimed before it is not believed."""
    return {"X-Forwarded-For": f"{SPOOFED}, {address}"}


async def _until(socket: ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while (frame := await socket.receive_json())["type"] != kind:
            pass
    found: dict[str, Any] = frame
    return found


async def _closed(socket: ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(PATIENCE_S):
        while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
            pass
    return socket.close_code


def addresses(text: str) -> Sequence[str]:
    """Every address in the text."""
    return re.findall(r"\b(?:203\.0\.113|198\.51\.100)\.\d+\b", text)
