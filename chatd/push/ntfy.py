"""ntfy (https://ntfy.sh, or one of your own): a subscription's endpoint is the URL of a topic.

Published as JSON to the server's root (docs.ntfy.sh/publish, "Publish as JSON"): headers are no safe place for UTF-8.
All of one conversation has one sequence id ("Updating + deleting notifications", ntfy 2.16): a newer notification
takes the place of the one on the screen, and a clear removes it. An older server shows each one, and knows no clear.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from yarl import URL

from chatd.errors import BadFrame
from chatd.model import Subscription
from chatd.push.base import Clear, Context, Notification, Outcome, Payload
from chatd.push.fitting import ELLIPSIS, in_bytes, shorten
from chatd.push.guard import Guard

MESSAGE_BYTES_MAX = 4_096
"""ntfy makes a file of a message that is longer."""

_TOPIC = re.compile(r"/([-_A-Za-z0-9]{1,64})")
_SEQUENCE_ID = re.compile(r"[-_A-Za-z0-9]{1,64}")
_TOKEN = re.compile(r"[!-~]{1,256}")
# Publishing makes a topic, so a page that is missing is no topic that is gone: it is an older server.
_NO_CLEAR = {404: Outcome("delivered", "this ntfy is too old to clear"), 405: Outcome("delivered")}


async def make(context: Context) -> Ntfy:
    """A `chatd.push.base.Factory`."""
    return Ntfy(Guard(private=context.settings.private_endpoints, now_ms=context.now_ms))


class Ntfy:
    """The notifier ``ntfy``. A subscription's keys may have a ``token``, which may publish to the topic."""

    every_user = False

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.public: dict[str, str] = {}

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        """Raises: BadFrame – the endpoint is not a topic's URL, or a key is wrong."""
        self._read(endpoint)
        _authorization(keys)

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        """See `chatd.push.base.Notifier`. The server says how long it keeps messages; ``ttl_s`` cannot be told."""
        if subscription is None:
            return Outcome("refused", "ntfy needs a subscription")
        try:
            root, topic = self._read(subscription.endpoint)
            headers = _authorization(subscription.keys)
        except BadFrame as exc:
            return Outcome("refused", exc.message)
        if isinstance(payload, Clear):
            if not _SEQUENCE_ID.fullmatch(payload.tag):
                return Outcome("refused", "the tag is no sequence id of ntfy")
            clear = f"{root}{topic}/{payload.tag}/clear"
            return await self._guard.post(clear, b"", headers, method="PUT", special=_NO_CLEAR)
        body = msgspec.json.encode({"topic": topic, "sequence_id": payload.tag, **_shown(payload)})
        return await self._guard.post(root, body, {"Content-Type": "application/json", **headers})

    def _read(self, endpoint: str) -> tuple[str, str]:
        """The server's root, with its slash, and the topic."""
        url = self._guard.check(endpoint)
        topic = _TOPIC.fullmatch(url.raw_path)
        if topic is None or url.raw_query_string or url.raw_fragment:
            raise BadFrame("endpoint: must be the URL of an ntfy topic, as https://ntfy.sh/mytopic")
        return str(URL.build(scheme=url.scheme, authority=url.raw_authority, path="/", encoded=True)), topic[1]

    async def close(self) -> None:
        """Close the connections."""
        await self._guard.close()


def _shown(payload: Payload) -> dict[str, object]:
    """What the device shows of it."""
    if isinstance(payload, Notification):
        count = "1 new message" if payload.count == 1 else f"{payload.count} new messages"
        text = payload.body or count
        title, tags = payload.sender, ["speech_balloon"]
    else:
        text = getattr(payload, "text", "") or "Test"
        title, tags = "chatd", ["white_check_mark"]
    message = shorten(text, in_bytes(MESSAGE_BYTES_MAX)) or ELLIPSIS
    return {"title": title, "message": message, "tags": tags}


def _authorization(keys: Mapping[str, str]) -> dict[str, str]:
    if not keys.keys() <= {"token"}:
        raise BadFrame("keys: may have a token and nothing else")
    if "token" not in keys:
        return {}
    if not _TOKEN.fullmatch(keys["token"]):
        raise BadFrame("keys.token: must be 1 to 256 printable ASCII characters without spaces")
    return {"Authorization": f"Bearer {keys['token']}"}
