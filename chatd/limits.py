"""Token buckets, and whose bucket a request takes from. Pure: the time is an argument, in seconds of any clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from chatd.errors import ConfigError

Network: TypeAlias = IPv4Network | IPv6Network
_Address: TypeAlias = IPv4Address | IPv6Address

FORWARDED_HOPS_MAX = 16
"""How many entries of an X-Forwarded-For are looked at, from its right end."""


class TokenBucket:
    """Allows ``rate_per_s`` on average and ``burst`` at once. It starts full.

    An amount above the burst is let through when the bucket is full and leaves a debt, so that the rate holds and
    nothing is impossible. A clock that goes backwards adds nothing and takes nothing away.
    """

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s: float | None = None

    def take(self, now_s: float, amount: float = 1.0) -> float:
        """Take ``amount``. Returns 0.0 when it was taken, else the seconds until it can be; then nothing was taken."""
        at_s, tokens, burst = self._at_s, self._tokens, self._burst
        if at_s is not None and now_s > at_s and tokens < burst:
            tokens += (now_s - at_s) * self._rate_per_s
            tokens = min(tokens, burst)
        self._at_s = now_s
        need = amount if amount < burst else burst
        # The slack keeps a caller that came back exactly when told from being refused for a rounding error.
        if tokens + 1e-9 >= need:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        return (need - tokens) / self._rate_per_s


class Buckets:
    """A bucket a key, for at most ``keys_max`` keys; beyond, the key that was used longest ago is forgotten.

    A forgotten key starts full again: whoever commands more than ``keys_max`` keys was not limited by them anyway.
    """

    __slots__ = ("_buckets", "_burst", "_keys_max", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, keys_max: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now_s: float, amount: float = 1.0) -> float:
        """Take from the bucket of ``key``; the answer is that of `TokenBucket.take`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._keys_max:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = TokenBucket(self._rate_per_s, self._burst)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now_s, amount)


def parse_networks(names: Iterable[str]) -> tuple[Network, ...]:
    """The networks of ``server.trusted_proxies``; a bare address is a network of one. Raises: ConfigError."""
    try:
        return tuple(ip_network(name, strict=False) for name in names)
    except ValueError as exc:
        raise ConfigError(f"server.trusted_proxies: {exc}") from exc


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def client_address(remote: str | None, forwarded_for: str | None = None, trusted: Sequence[Network] = ()) -> str:
    """The client's address; "local": there is none (a unix socket).

    ``forwarded_for`` (an X-Forwarded-For header) is believed from its right end, as far as each hop that added to it
    is ``trusted``.
    """
    address = _client(remote, forwarded_for, trusted)
    return "local" if address is None else str(address)


def peer_address(remote: str | None, trusted: Sequence[Network] = ()) -> str:
    """Whose a head is that has no end: the peer's; "local" if that is a ``trusted`` proxy.

    What there is of it may be the client's word alone: the proxy's stands behind that.
    """
    address = _address(remote or "")
    return "local" if address is None or any(address in network for network in trusted) else str(address)


def address_key(remote: str | None, forwarded_for: str | None = None, trusted: Sequence[Network] = ()) -> str:
    """The key that a client's address pays under: an IPv4 address, or the /64 of an IPv6 one (one subscriber).

    Whose address it is: as `client_address` has it.
    """
    address = _client(remote, forwarded_for, trusted)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return "local" if address is None else str(address)


def _client(remote: str | None, forwarded_for: str | None, trusted: Sequence[Network]) -> _Address | None:
    address = _address(remote or "")
    if address is None:
        return None
    hops = forwarded_for.split(",")[-FORWARDED_HOPS_MAX:] if forwarded_for and trusted else []
    while hops and any(address in network for network in trusted):
        further = _address(hops.pop().strip())
        if further is None:
            break
        address = further
    return address


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
