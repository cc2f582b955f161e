"""Security events: their bound, and what they say of whom."""

from __future__ import annotations

import structlog

from chatd.security import ADDRESS_LINES_BURST, LINES_BURST, SecurityLog


def test_what_is_hostile_is_a_warning_and_a_name_that_is_none_is_left_out() -> None:
    log = SecurityLog(lambda: 0.0)
    with structlog.testing.capture_logs() as logged:
        log.tell("login_failed", address="192.0.2.1", user="alice")
        log.tell("login_failed", address="192.0.2.1", user="al\nice")
        log.tell("logged_in", address="192.0.2.1", user="alice", device="ab")
        log.tell("origin_refused", address="192.0.2.1", origin="x" * 10_000)
    levels = [(line["event"], line["log_level"], line["user"]) for line in logged]
    assert levels == [
        ("login_failed", "warning", "alice"),
        ("login_failed", "warning", ""),
        ("logged_in", "info", "alice"),
        ("origin_refused", "warning", ""),
    ]
    assert list(logged[2])[:3] == ["address", "user", "device"]
    assert len(logged[3]["origin"]) == 200


def test_what_is_no_address_s_doing_causes_as_many_lines_from_all_as_from_one() -> None:
    log = SecurityLog(lambda: 0.0)
    with structlog.testing.capture_logs() as logged:
        for number in range(2 * ADDRESS_LINES_BURST):
            log.tell("turned_away", address=f"address {number}")
        assert len(logged) == ADDRESS_LINES_BURST
        log.tell("login_failed", address="address 1")
    assert [line["event"] for line in logged[ADDRESS_LINES_BURST:]] == ["login_failed"], "a storm hides no guess"


def test_an_address_and_all_together_cause_so_many_lines_and_the_rest_is_counted() -> None:
    now = [0.0]
    log = SecurityLog(lambda: now[0])
    with structlog.testing.capture_logs() as logged:
        for _ in range(100):
            log.tell("token_refused", address="192.0.2.1")
        assert len(logged) == ADDRESS_LINES_BURST
        log.tell("login_failed", address="192.0.2.1")
        assert logged[-1]["dropped"] == 100 - ADDRESS_LINES_BURST
        for number in range(2 * LINES_BURST):
            log.tell("token_refused", address=f"address {number}")
        assert len(logged) == LINES_BURST
        now[0] = 60.0
        log.tell("token_refused", address="192.0.2.1")
        assert logged[-1]["dropped"] > LINES_BURST
        log.tell("token_refused", address="192.0.2.1")
        assert "dropped" not in logged[-1]
