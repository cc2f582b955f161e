"""What a client hears."""

from __future__ import annotations

import asyncio

from chatd.client import Client, MessageEvent

PATIENCE_S = 60.0


async def messages_of(client: Client, count: int) -> list[MessageEvent]:
    """Its next so many messages."""
    found: list[MessageEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.events():
            if isinstance(event, MessageEvent):
                found.append(event)
                if len(found) == count:
                    break
    return found
