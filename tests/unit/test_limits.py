"""Token buckets with literal times, and whose bucket an address pays from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.errors import ConfigError
from chatd.limits import Buckets, TokenBucket, address_key, parse_networks


def test_a_burst_goes_through_at_once_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate_per_s=2.0, burst=3)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == 0.5
    assert bucket.take(100.25) == 0.25
    assert bucket.take(100.5) == 0.0
    assert bucket.take(100.5) == 0.5


def test_a_refusal_takes_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1.0, burst=1)
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(0.5) for _ in range(5)] == [0.5] * 5
    assert bucket.take(1.0) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate_per_s=10.0, burst=2)
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(1_000.0) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_an_amount_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBucket(rate_per_s=10.0, burst=10)
    assert bucket.take(0.0, 1.0) == 0.0
    assert bucket.take(0.0, 30.0) == pytest.approx(0.1)
    assert bucket.take(0.1, 30.0) == 0.0
    assert bucket.take(0.1, 1.0) == pytest.approx(2.1)


def test_a_clock_that_goes_backwards_gives_and_takes_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1.0, burst=2)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) == 0.0
    assert bucket.take(50.0) == 1.0
    assert bucket.take(51.0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 5)), max_size=60),
    st.floats(0.1, 100),
    st.integers(5, 50),
)
def test_no_run_of_takes_beats_burst_plus_rate(steps: list[tuple[float, float]], rate: float, burst: int) -> None:
    bucket, now_s, taken = TokenBucket(rate, burst), 0.0, 0.0
    for pause_s, amount in steps:
        now_s += pause_s
        if bucket.take(now_s, amount) == 0.0:
            taken += amount
        assert taken <= burst + rate * now_s + 1e-6


@given(st.floats(0, 1e6), st.floats(0.1, 100), st.integers(1, 50), st.floats(0.1, 50))
def test_who_comes_back_when_told_is_let_in(start_s: float, rate: float, burst: int, amount: float) -> None:
    bucket = TokenBucket(rate, burst)
    for _ in range(3):
        wait_s = bucket.take(start_s, amount)
        start_s += wait_s
        if wait_s:
            assert bucket.take(start_s + 1e-6, amount) == 0.0


def test_each_key_has_its_own_bucket() -> None:
    buckets = Buckets(rate_per_s=1.0, burst=1, keys_max=10)
    assert [buckets.take(key, 0.0) for key in ("a", "b", "a", "b")] == [0.0, 0.0, 1.0, 1.0]


def test_the_key_used_longest_ago_is_forgotten_at_the_bound_and_starts_full() -> None:
    buckets = Buckets(rate_per_s=1.0, burst=1, keys_max=2)
    assert [buckets.take(key, 0.0) for key in ("a", "b", "a", "c")] == [0.0, 0.0, 1.0, 0.0]
    assert len(buckets) == 2
    assert buckets.take("a", 0.0) == 1.0, "a was used after b: it is still known"
    assert buckets.take("b", 0.0) == 0.0, "b was forgotten and starts full"
    assert len(buckets) == 2


def test_an_address_pays_for_itself_and_an_ipv6_subscriber_for_the_whole_of_it() -> None:
    assert address_key("192.0.2.7") == "192.0.2.7"
    assert address_key("::ffff:192.0.2.7") == "192.0.2.7"
    assert address_key("2001:db8:1:2:3:4:5:6") == address_key("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert address_key("fe80::1%eth0") == "fe80::/64"
    assert address_key(None) == address_key("") == "local"


def test_a_forwarded_address_is_believed_as_far_as_trusted_proxies_vouch_for_it() -> None:
    trusted = parse_networks(["10.0.0.0/8", "2001:db8::1"])
    assert address_key("10.0.0.1", "198.51.100.9", trusted) == "198.51.100.9"
    assert address_key("10.0.0.1", "203.0.113.1, 198.51.100.9, 10.2.3.4", trusted) == "198.51.100.9"
    assert address_key("2001:db8::1", "198.51.100.9", trusted) == "198.51.100.9"
    assert address_key("192.0.2.7", "198.51.100.9", trusted) == "192.0.2.7", "an untrusted peer says nothing"
    assert address_key("10.0.0.1", "198.51.100.9") == "10.0.0.1", "nobody is trusted"
    assert address_key("10.0.0.1", "198.51.100.9, nonsense", trusted) == "10.0.0.1"
    assert address_key("10.0.0.1", ",".join(["10.0.0.2"] * 50), trusted) == "10.0.0.2"


def test_a_wrong_proxy_setting_names_itself() -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies: .*nonsense"):
        parse_networks(["nonsense"])
