"""Every rule of a body and a destination, and that a draft carries exactly what was given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.errors import BadFrame, NotFound, Refusal, TooLarge
from chatd.model import Draft
from chatd.sending import make_draft

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def make(**changes: Any) -> Draft:
    given: dict[str, Any] = {
        "user": "bob",
        "to": "alice",
        "conv": None,
        "id": ID,
        "body": "hi",
        "body_bytes_max": 8,
        "now_ms": 1_700_000_000_000,
    }
    return make_draft(**(given | changes))


def test_a_user_and_its_conversation_name_the_same_place() -> None:
    assert make() == Draft("alice:bob", "bob", ID, "hi", 1_700_000_000_000)
    assert make(to=None, conv="alice:bob") == make()
    assert make(to="bob").conv == "bob:bob"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"to": None}, BadFrame),
        ({"conv": "alice:bob"}, BadFrame),
        ({"body": ""}, BadFrame),
        ({"body": "a\0b"}, BadFrame),
        ({"body": "é\0"}, BadFrame),
        ({"body": "\ud800"}, BadFrame),
        ({"body": "ok \udfff"}, BadFrame),
        ({"body": "a" * 9}, TooLarge),
        ({"body": "éééée"}, TooLarge),
        ({"to": None, "conv": "alice:carol"}, NotFound),
        ({"to": None, "conv": "bob:alice"}, NotFound),
        ({"to": None, "conv": "nonsense"}, NotFound),
    ],
)
def test_what_the_protocol_forbids_is_refused(changes: dict[str, Any], kind: type[Refusal]) -> None:
    with pytest.raises(kind):
        make(**changes)


def test_the_bound_is_in_bytes_and_is_itself_allowed() -> None:
    assert make(body="a" * 8).body == "a" * 8
    assert make(body="éééé").body == "éééé"


@given(st.text(min_size=1, max_size=20))
def test_a_body_is_taken_as_it_is_or_refused_for_its_bytes(body: str) -> None:
    size = len(body.encode())
    if "\0" in body or size > 40:
        with pytest.raises(TooLarge if size > 40 else BadFrame):
            make(body=body, body_bytes_max=40)
    else:
        assert make(body=body, body_bytes_max=40).body == body
