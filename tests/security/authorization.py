"""The authorisation matrix: who may do what with what is another's. One row a frame type and HTTP call, or more.

The world: alice owns. bob is her peer, they have written to each other. carol is a stranger to her. dave wrote to her
and is blocked by her now. erin was deleted and frank is locked out; both hold tokens, and sockets, of before. nobody
has no account. heidi administers, which makes her no less of a stranger. Where a row names somebody's thing, it is
alice's, whoever asks.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

ROLES = {
    "owner": "alice",
    "peer": "bob",
    "stranger": "carol",
    "blocked": "dave",
    "deleted": "erin",
    "disabled": "frank",
    "anonymous": "nobody",
    "administrator": "heidi",
}


class Row(Struct, frozen=True):
    """``verb``: a frame type or an operation of the HTTP API; behind a # what the row is about.

    ``expected``: the outcomes in the order of `ROLES`. ``args``: path parameters and body, or the frame's fields; names
    of `SUBSTITUTES` are filled in.
    """

    verb: str
    expected: str
    args: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.verb.partition("#")[0]

    def outcome(self, role: str) -> str:
        outcomes = self.expected.split()
        assert len(outcomes) == len(ROLES), self.verb
        return outcomes[list(ROLES).index(role)]


SUBSTITUTES = {
    "$me": "the one who asks",
    "$fresh": "a name or id that is new each time",
    "$id": "a message id that is new each time",
    "$other": "alice, or for her bob",
    "$her_device": "a device of alice's, not the one that asks",
    "$her_token": "a token of alice's",
    "$my_token": "the token of who asks",
}
CONV = "alice:bob"
NEW = {"user": "$fresh", "password": "x"}
MINE = {"user": "$me", "password": "$me"}
HERS = {"user": "alice", "password": "$me"}
TO_HER = {"to": "$other", "id": "$id", "body": "x"}
INTO_HERS = {"conv": CONV, "id": "$id", "body": "x"}
MY_TOKEN = {"token": "$my_token"}
HER_TOKEN = {"token": "$her_token"}
FIRST = {"conv": CONV, "seq": 1}
NINE = {"limit": 9}
PAGE = {"conv": CONV, "limit": 9}
OTHER = {"users": ["$other"]}
WRITING = {"conv": CONV, "on": True}
TOPIC = {"kind": "ntfy", "endpoint": "https://ntfy.sh/x"}
LOCK = {"disabled": True}
HER_OTHER = {"user": "alice", "device": "$her_device"}

# HTTP: the status. Not "may" but "does": what is another's looks as if it were not there (404).
HTTP = (
    #                              owner peer stranger blocked deleted disabled anonymous administrator
    Row("register", "              201   201  201      201     201     201      201  201", NEW),
    Row("login", "                 200   200  200      200     401     401      401  200", MINE),
    Row("login#as her", "          200   401  401      401     401     401      401  401", HERS),
    Row("devices", "               200   200  200      200     401     403      401  200"),
    Row("revoke_device", "         204   404  404      404     401     403      401  404", {"device": "$her_device"}),
    Row("send_message", "          201   201  201      201     401     403      401  201", TO_HER),
    Row("send_message#hers", "     201   201  404      404     401     403      401  404", INTO_HERS),
    Row("conversations", "         200   200  200      200     401     403      401  200"),
    Row("history", "               200   200  404      404     401     403      401  404", {"conv": CONV}),
    Row("marks", "                 200   200  404      404     401     403      401  404", {"conv": CONV}),
    Row("read", "                  200   200  404      404     401     403      401  404", {"conv": CONV, "seq": 1}),
    Row("blocks", "                200   200  200      200     401     403      401  200"),
    Row("block", "                 204   204  204      204     401     403      401  204", {"user": "grace"}),
    Row("unblock", "               204   204  204      204     401     403      401  204", {"user": "grace"}),
    Row("unblock#whom she blocks", "204  204  204      204     401     403      401  204", {"user": "dave"}),
    Row("privacy", "               200   200  200      200     401     403      401  200"),
    Row("set_privacy", "           204   204  204      204     401     403      401  204", {"last_seen": False}),
    Row("push", "                  200   200  200      200     401     403      401  200"),
    Row("subscription", "          200   404  404      404     401     403      401  404"),
    Row("unsubscribe", "           204   404  404      404     401     403      401  404"),
    Row("subscribe", "             204   204  204      204     401     403      401  204", TOPIC),
    Row("account", "               200   200  200      200     401     403      401  200"),
    Row("admin_stats", "           403   403  403      403     401     403      401  200"),  # none of them administers
    Row("admin_users", "           403   403  403      403     401     403      401  200"),
    Row("admin_set_user", "        403   403  403      403     401     403      401  204", {"user": "grace", **LOCK}),
    Row("admin_devices", "         403   403  403      403     401     403      401  200", {"user": "alice"}),
    Row("admin_revoke", "          403   403  403      403     401     403      401  204", HER_OTHER),
    Row("admin_invite", "          403   403  403      403     401     403      401  201", {"hours": 1}),
    Row("openapi", "               200   200  200      200     200     200      200  200"),
    Row("healthz", "               200   200  200      200     200     200      200  200"),
    Row("readyz", "                200   200  200      200     200     200      200  200"),
    Row("version", "               200   200  200      200     200     200      200  200"),
    Row("metrics", "               200   200  200      200     200     200      200  200"),  # from here only
    Row("landing", "               200   200  200      200     200     200      200  200"),
    Row("join", "                  200   200  200      200     200     200      200  200"),
    Row("logout", "                204   204  204      204     401     403      401  204"),
)  # fmt: skip

# Frames: the type of the answer, the code of the refusal, or the code that the socket is closed with; "-": silence.
FRAMES = (
    #                       owner     peer      stranger  blocked   deleted disabled anonymous administrator
    Row("hello", "          welcome   welcome   welcome   welcome   4401    4403     4401 welcome", MY_TOKEN),
    Row("auth", "           ok        ok        ok        ok        4401    4403     4400 ok", MY_TOKEN),
    Row("auth#as her", "    ok        forbidden forbidden forbidden 4401    4403     4400 forbidden", HER_TOKEN),
    Row("send", "           sent      sent      sent      sent      4401    4403     4400 sent", TO_HER),
    Row("send#hers", "      sent      sent      not_found not_found 4401    4403     4400 not_found", INTO_HERS),
    Row("ack", "            ok        ok        not_found not_found 4401    4403     4400 not_found", FIRST),
    Row("read", "           ok        ok        not_found not_found 4401    4403     4400 not_found", FIRST),
    Row("history", "        messages  messages  not_found not_found 4401    4403     4400 not_found", PAGE),
    Row("conversations", "conversations conversations conversations conversations 4401 4403 4400 conversations", NINE),
    Row("watch", "          bob       alice     nobody    nobody    4401    4403     4400 nobody", OTHER),
    Row("unwatch", "        ok        ok        ok        ok        4401    4403     4400 ok", OTHER),
    Row("status", "         ok        ok        ok        ok        4401    4403     4400 ok", {"state": "away"}),
    Row("typing", "         -         -         not_found not_found 4401    4403     4400 not_found", WRITING),
    Row("ping", "           pong      pong      pong      pong      4401    4403     4400 pong"),
)  # fmt: skip
