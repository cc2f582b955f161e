"""The Python client of chatd: ``async with await Client.login(url, user, password) as client``.

It needs nothing of the server. See `Client` for what it promises.
"""

from chatd.client.client import Client
from chatd.client.events import (
    CaughtUpEvent,
    ConnectedEvent,
    ConversationEvent,
    ConversationMarks,
    DisconnectedEvent,
    Event,
    GoneEvent,
    HistoryPage,
    MessageEvent,
    PresenceEvent,
    ReceiptEvent,
    ResetEvent,
    Sent,
    Stopped,
    TypingEvent,
)
from chatd.client.handle import Handle
from chatd.errors import ChatdError, Refusal, StartError

__all__ = [
    "CaughtUpEvent",
    "ChatdError",
    "Client",
    "ConnectedEvent",
    "ConversationEvent",
    "ConversationMarks",
    "DisconnectedEvent",
    "Event",
    "GoneEvent",
    "Handle",
    "HistoryPage",
    "MessageEvent",
    "PresenceEvent",
    "ReceiptEvent",
    "Refusal",
    "ResetEvent",
    "Sent",
    "StartError",
    "Stopped",
    "TypingEvent",
]
