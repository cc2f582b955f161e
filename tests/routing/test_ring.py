"""The ring: what another language must get too, what moves when a node comes or goes, and how even it is."""

from __future__ import annotations

import json
import random
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.routing.ring import Ring, ring_hash

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "ring.json").read_text("utf-8"))
NODES_MAX = 16
WITHIN = 0.20

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
rings = st.dictionaries(names, st.integers(1, 3), min_size=1, max_size=6).map(Ring)
users = st.lists(names, min_size=1, max_size=50, unique=True)


@pytest.mark.parametrize("vector", VECTORS["hashes"])
def test_a_hash_is_that_of_the_vectors(vector: dict[str, str]) -> None:
    assert f"{ring_hash(vector['text']):016x}" == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["rings"])
def test_every_user_is_where_the_vectors_say(vector: dict[str, Any]) -> None:
    ring = Ring(vector["weights"])
    assert {user: list(ring.preference(user)) for user in vector["users"]} == vector["users"]
    assert {user: ring.place(user) for user in vector["users"]} == {u: p[0] for u, p in vector["users"].items()}


@pytest.mark.parametrize("vector", VECTORS["rings"])
def test_the_text_alone_is_enough_to_build_it(vector: dict[str, Any]) -> None:
    """The five rules of the module's text, followed with a search that goes through all points."""

    def hashed(text: str) -> bytes:
        return blake2b(text.encode(), digest_size=8).digest()

    points = [(hashed(f"{n}#{i}"), n) for n, w in vector["weights"].items() for i in range(512 * w)]
    points.sort(key=lambda point: (point[0], point[1].encode()))
    assert [[point.hex(), name] for point, name in points[:3]] == vector["first_points"]
    for user, preferred in vector["users"].items():
        behind = [name for point, name in points if point >= hashed(user)]
        assert list(dict.fromkeys([*behind, *(name for _, name in points)])) == preferred


@given(rings, users)
def test_a_preference_has_every_node_once_and_begins_at_home(ring: Ring, users: list[str]) -> None:
    for user in users:
        preferred = list(ring.preference(user))
        assert preferred[0] == ring.place(user)
        assert sorted(preferred) == sorted(ring.weights)


@given(rings, users, st.data())
def test_a_node_that_leaves_moves_only_its_own_users_and_each_to_its_next(
    ring: Ring, users: list[str], data: st.DataObject
) -> None:
    leaver = data.draw(st.sampled_from(sorted(ring.weights)))
    smaller = ring.remove(leaver)
    for user in users:
        stays = [node for node in ring.preference(user) if node != leaver]
        assert list(smaller.preference(user)) == stays
    assert leaver in ring.weights


@given(rings, users, names, st.integers(1, 3))
def test_a_node_that_joins_takes_users_and_moves_nobody_else(
    ring: Ring, users: list[str], joiner: str, weight: int
) -> None:
    if joiner in ring.weights:
        ring = ring.remove(joiner)
    if ring.weights:
        larger = ring.add(joiner, weight)
        for user in users:
            assert larger.place(user) in (ring.place(user), joiner)


@given(rings)
def test_the_order_of_the_nodes_does_not_matter(ring: Ring) -> None:
    turned = Ring(dict(sorted(ring.weights.items(), reverse=True)))
    assert [turned.place(f"user-{n}") for n in range(50)] == [ring.place(f"user-{n}") for n in range(50)]


@given(rings)
def test_the_shares_are_the_whole(ring: Ring) -> None:
    assert sum(ring.shares().values()) == pytest.approx(1.0)


NAMES = {
    "workers": [f"worker-{n}" for n in range(NODES_MAX)],
    "addresses": [f"http://10.0.0.{n + 1}:8080" for n in range(NODES_MAX)],
    "ports": [f"http://127.0.0.1:{8081 + n}" for n in range(NODES_MAX)],
    "letters": [chr(ord("a") + n) for n in range(NODES_MAX)],
    "random": [f"{random.Random(n).getrandbits(64):x}" for n in range(NODES_MAX)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_shares_are_even_whatever_the_nodes_are_called(kind: str) -> None:
    """Exact, not sampled; the newest node's share is also what it took from the others when it joined."""
    for count in range(1, NODES_MAX + 1):
        shares = Ring(dict.fromkeys(NAMES[kind][:count], 1)).shares()
        assert all(abs(share * count - 1) < WITHIN for share in shares.values())


@pytest.mark.parametrize("kind", NAMES)
def test_a_node_that_comes_or_goes_moves_its_share_of_users(kind: str) -> None:
    users = [f"user-{n}" for n in range(10_000)]
    smaller = Ring({NAMES[kind][0]: 1})
    before = [smaller.place(user) for user in users]
    for count in range(2, NODES_MAX + 1):
        larger = smaller.add(NAMES[kind][count - 1])
        after = [larger.place(user) for user in users]
        moved = sum(one != other for one, other in zip(before, after, strict=True))
        assert moved / len(users) == pytest.approx(1 / count, rel=WITHIN)
        smaller, before = larger, after


def test_a_part_of_the_nodes_judges_as_the_whole_does() -> None:
    """Who is at home on a ring is so on any ring of some of its nodes: a view that lacks some sends nobody away."""
    whole = Ring(dict.fromkeys(NAMES["workers"], 1))
    part = Ring(dict.fromkeys(NAMES["workers"][::3], 1))
    homes = [(user, whole.place(user)) for user in (f"user-{n}" for n in range(1_000))]
    assert all(part.place(user) == home for user, home in homes if home in part.weights)
    assert any(home not in part.weights for _, home in homes)


def test_the_shares_are_those_that_users_see() -> None:
    ring = Ring({"worker-0": 1, "worker-1": 1, "worker-2": 2})
    placed = [ring.place(f"user-{n}") for n in range(20_000)]
    for name, share in ring.shares().items():
        assert placed.count(name) / len(placed) == pytest.approx(share, abs=0.02)


def test_a_weight_is_kept_to() -> None:
    shares = Ring({"small": 1, "middle": 2, "big": 5}).shares()
    assert shares["small"] * 8 == pytest.approx(1, rel=WITHIN)
    assert shares["middle"] * 8 == pytest.approx(2, rel=WITHIN)
    assert shares["big"] * 8 == pytest.approx(5, rel=WITHIN)


def test_what_makes_no_ring_is_refused() -> None:
    for weights in ({"": 1}, {"a": 0}):
        with pytest.raises(ValueError, match="a node needs a name and a weight"):
            Ring(weights)
    empty = Ring({})
    assert len(empty) == 0
    assert list(empty.preference("alice")) == []
    with pytest.raises(LookupError, match="no nodes"):
        empty.place("alice")
    with pytest.raises(KeyError):
        empty.remove("a")
