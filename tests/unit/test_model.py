"""Names, ids and conversations: the forms, and the function of the pair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.model import USER_PATTERN, conv_of, is_device, is_message_id, is_user, members_of, peer_of

users = st.from_regex(USER_PATTERN, fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "alice", "a.b_c-d", "a" * 64])
def test_a_user_name_has_its_form(name: str) -> None:
    assert is_user(name)


@pytest.mark.parametrize("name", ["", "A", ".a", "-a", "_a", "a" * 65, "a:b", "a b", "ä", "a\n", "a\0", "\u0661"])
def test_what_is_no_user_name(name: str) -> None:
    assert not is_user(name)


@pytest.mark.parametrize(
    ("device", "good"),
    [("d", True), ("Az09_-", True), ("d" * 64, True), ("", False), ("d" * 65, False), ("d.e", False), ("d\n", False)],
)
def test_a_device_id_has_its_form(device: str, good: bool) -> None:
    assert is_device(device) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("01890a5d-ac96-774b-bcce-b302099a8057", True),
        ("00000000-0000-0000-0000-000000000000", True),
        ("01890A5D-AC96-774B-BCCE-B302099A8057", False),
        ("01890a5dac96774bbcceb302099a8057", False),
        ("01890a5d-ac96-774b-bcce-b302099a8057\n", False),
        ("01890a5d-ac96-774b-bcce-b302099a805", False),
        ("g1890a5d-ac96-774b-bcce-b302099a8057", False),
    ],
)
def test_a_message_id_is_a_lower_case_uuid(text: str, good: bool) -> None:
    assert is_message_id(text) is good


@given(users, users)
def test_a_conversation_is_a_function_of_the_pair(one: str, other: str) -> None:
    conv = conv_of(one, other)
    assert conv == conv_of(other, one)
    assert conv.isascii()
    assert len(conv) <= 160
    assert members_of(conv) == tuple(sorted((one, other)))
    assert peer_of(conv, one) == other
    assert peer_of(conv, other) == one


def test_notes_to_self_have_one_member_twice() -> None:
    assert conv_of("alice", "alice") == "alice:alice"
    assert members_of("alice:alice") == ("alice", "alice")
    assert peer_of("alice:alice", "alice") == "alice"


@pytest.mark.parametrize(
    "conv", ["", ":", "alice", "alice:", ":bob", "bob:alice", "alice:bob:carol", "alice:bob\n", "Alice:bob", "a :b"]
)
def test_what_is_no_conversation_has_no_members(conv: str) -> None:
    assert members_of(conv) is None
    assert peer_of(conv, "alice") is None


def test_a_conversation_of_others_looks_like_none() -> None:
    assert peer_of("bob:carol", "alice") is None
