"""The shipped configurations of nginx, HAProxy and Caddy, in those programs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from chatd.testing.ports import free_port

CONFIG = Path(__file__).parent.parent.parent / "config"
PROGRAMS = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
PATIENCE_S = 20.0


def filled_in(program: str, port: int, hosts: Sequence[str]) -> str:
    """The shipped text with these addresses; everything else as it is."""
    text = (CONFIG / PROGRAMS[program]).read_text("utf-8")
    for number, host in enumerate(hosts, 1):
        text, count = re.subn(rf"\b10\.0\.0\.{number}:8080\b", host, text)
        assert count == 2
    listen = {
        "nginx": ("listen 80;", f"listen 127.0.0.1:{port};"),
        "haproxy": ("bind :80", f"bind 127.0.0.1:{port}"),
        "caddy": ("\nchat.example {", f"\nhttp://127.0.0.1:{port} {{"),
    }
    before, after = listen[program]
    assert text.count(before) == 1
    return text.replace(before, after)


def _command(program: str, directory: Path, text: str) -> list[str]:
    """Write the configuration; return what runs it in the foreground, as whoever runs the tests."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    assert path is not None, f"no {program}: install it (Debian: apt-get install {program})"
    if program == "haproxy":
        (directory / "haproxy.cfg").write_text(text)
        return [path, "-db", "-f", str(directory / "haproxy.cfg")]
    if program == "caddy":
        # Nothing but what is a test's own: no admin port, no certificate, no file outside of the directory.
        assert text.count("\n{\n") == 1
        (directory / "Caddyfile").write_text(
            text.replace("\n{\n", f"\n{{\n\tadmin off\n\tstorage file_system {directory}\n", 1)
        )
        return [path, "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]
    (directory / "chatd.conf").write_text(text)
    temporary = " ".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log; events {{ }}\n"
        f"http {{ access_log off; {temporary} include {directory}/chatd.conf; }}\n"
    )
    return [path, "-c", str(directory / "nginx.conf"), "-p", str(directory)]


@asynccontextmanager
async def proxy(
    program: str, directory: Path, hosts: Sequence[str], change: Callable[[str], str] = str
) -> AsyncIterator[str]:
    """The program in front of these hosts, its configuration changed that way. Gives: its URL."""
    port = free_port()
    command = _command(program, directory, change(filled_in(program, port, hosts)))
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "HOME": str(directory)}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as http:
            while not await _ready(http, url):
                assert process.returncode is None, (directory / "log").read_text()
                await asyncio.sleep(0.02)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
