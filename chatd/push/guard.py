"""The one place that posts to push services, and what keeps users' endpoints out of the operator's network.

Whoever has an account names a URL that this server then posts to (server-side request forgery, OWASP API7). So unless
the operator allows private endpoints, a URL must be https and every address behind its name a public one. That is
decided when a connection is made, on the very addresses that are then used: a name that changes its address between
a check and its use (DNS rebinding) gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from types import MappingProxyType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from chatd.errors import BadFrame
from chatd.push.base import Outcome

ENDPOINT_CHARS_MAX = 2_048
ANSWER_BYTES_MAX = 4_096
"""So much of an answer is read; what is longer costs the connection."""

ANSWER_S_MAX = 1.0
"""An answer's status says it all; its text, for the reason and to keep the connection, may take this much longer."""

CONNECTIONS_MAX = 256
CONNECTIONS_PER_HOST_MAX = 32
DNS_CACHE_S = 60
RETRY_AFTER_S_MAX = 86_400.0
_REASON_CHARS_MAX = 160

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_NAT64 = IPv6Network("64:ff9b::/96")
_IETF_PROTOCOLS = IPv4Network("192.0.0.0/24")  # Python calls some of it global, others not, by version
_NOTHING: Mapping[int, Outcome] = MappingProxyType({})


class Blocked(Exception):
    """A name stands for an address that is not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is on the public internet; of one that wraps an IPv4 address, that one decides."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _IETF_PROTOCOLS
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_UNICAST and address not in _SIX_TO_FOUR and address.is_global


class PublicResolver(AbstractResolver):
    """Resolves names through another resolver. Raises: Blocked – one of a name's addresses is not public."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for one in found:
            if not is_public(ip_address(one["host"].partition("%")[0])):
                raise Blocked(f"{host} has the private address {one['host']}")
        return found

    async def close(self) -> None:
        await self._inner.close()


class Guard:
    """Posts to endpoints, and says what the answers mean.

    ``private``: http and private addresses are allowed. ``now_ms``: Unix time, for Retry-After with a date.
    ``resolver``: who asks the DNS; None: the system's.
    """

    def __init__(self, *, private: bool, now_ms: Callable[[], int], resolver: AbstractResolver | None = None) -> None:
        self._private, self._now_ms, self._resolver = private, now_ms, resolver
        self._session: aiohttp.ClientSession | None = None

    def check(self, endpoint: str) -> URL:
        """Read an endpoint, without asking the DNS. Raises: BadFrame – one line that says what is wrong with it."""
        if len(endpoint) > ENDPOINT_CHARS_MAX:
            raise BadFrame(f"endpoint: longer than {ENDPOINT_CHARS_MAX} characters")
        if not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
            raise BadFrame("endpoint: a URL has printable ASCII characters only")
        try:
            # As it is written: a push service may tell %3A from a colon.
            url = URL(endpoint, encoded=True)
            host, port = url.host, url.port  # only now read, and maybe not there
        except ValueError as exc:
            raise BadFrame("endpoint: not a URL") from exc
        schemes = ("https", "http") if self._private else ("https",)
        if url.scheme not in schemes or not host or port is None:
            raise BadFrame(f"endpoint: must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}")
        if "@" in url.raw_authority:
            raise BadFrame("endpoint: must have no user name or password in it")
        self._check_host(host)
        return url

    def _check_host(self, host: str) -> None:
        """A literal address is never seen by the resolver, so it is judged here."""
        if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            try:
                address = ip_address(host)
            except ValueError as exc:
                raise BadFrame(f"endpoint: {host[:64]} is not an address in its usual form") from exc
            if "%" in host or not (self._private or is_public(address)):
                raise BadFrame(f"endpoint: {host} is a private address")
        elif not _NAME.fullmatch(host):
            raise BadFrame("endpoint: not a host name")

    async def post(
        self,
        endpoint: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        method: str = "POST",
        special: Mapping[int, Outcome] = _NOTHING,
    ) -> Outcome:
        """Send one request. The outcome's reason names the host and never the path, which may be a secret.

        ``special``: what these statuses mean here, other than to everybody else. Takes as long as it takes.
        """
        try:
            url = self.check(endpoint)
        except BadFrame as exc:
            return Outcome("refused", exc.message)
        host = url.host_port_subcomponent
        try:
            async with self._open().request(
                method,
                url,
                data=body,
                headers={"User-Agent": "chatd", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
            ) as response:
                if response.status in special:
                    outcome = special[response.status]
                else:
                    outcome = meaning(response.status, response.headers.get("Retry-After"), self._now_ms())
                text = await _text(response.content)
        except Blocked as exc:
            return Outcome("refused", f"{host}: {exc}; push.private_endpoints would allow it")
        except aiohttp.InvalidURL as exc:
            return Outcome("refused", f"{host}: {_line(str(exc))}")
        except (aiohttp.ClientError, OSError) as exc:
            return Outcome("later", f"{host}: {_line(str(exc) or type(exc).__name__)}")
        reason = f"{host}: {response.status} {outcome.reason}".rstrip()
        if outcome.result != "delivered" and text:
            reason += f": {text}"
        return Outcome(outcome.result, reason, outcome.retry_after_s)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = self._resolver or aiohttp.DefaultResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=resolver if self._private else PublicResolver(resolver),
                    limit=CONNECTIONS_MAX,
                    limit_per_host=CONNECTIONS_PER_HOST_MAX,
                    ttl_dns_cache=DNS_CACHE_S,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Close every connection; a later post opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def meaning(status: int, retry_after: str | None, now_ms: int) -> Outcome:
    """What an answer's status means to a notifier. ``retry_after``: the header's value."""
    if 200 <= status < 300:
        return Outcome("delivered")
    if status in (404, 410):
        return Outcome("gone", "the subscription is gone")
    if status == 429 or status >= 500:
        return Outcome("later", retry_after_s=read_retry_after(retry_after, now_ms))
    if status in (408, 425):
        return Outcome("later")
    if 300 <= status < 400:
        return Outcome("refused", "a redirect, which is not followed")
    if status in (401, 403):
        return Outcome("refused", "not allowed")
    if status == 413:
        return Outcome("refused", "too large")
    return Outcome("refused")


def read_retry_after(value: str | None, now_ms: int) -> float | None:
    """Seconds of a Retry-After, given in seconds or as an HTTP date; from 0 to a day. None: none, or not readable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), RETRY_AFTER_S_MAX)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when.replace(tzinfo=when.tzinfo or UTC)
    return min(max(when.timestamp() - now_ms / 1000, 0.0), RETRY_AFTER_S_MAX)


async def _text(content: aiohttp.StreamReader) -> str:
    """The beginning of an answer, as one line; whatever goes wrong with it, its status holds."""
    got = bytearray()
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            while len(got) < ANSWER_BYTES_MAX and (chunk := await content.read(ANSWER_BYTES_MAX - len(got))):
                got += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        return _line(got.decode("utf-8", "replace"))
    return _line(got.decode("utf-8", "replace"))


def _line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _REASON_CHARS_MAX else line[: _REASON_CHARS_MAX - 1] + "…"
