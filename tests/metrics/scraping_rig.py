"""Reading a server's metrics, as Prometheus does."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from chatd.testing import ChatServer


async def page(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and text of a scrape."""
    async with ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


def parse(text: str) -> dict[str, float]:
    """``name{label="value"}`` → value, of a page."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def scrape(server: ChatServer) -> dict[str, float]:
    """All series of a server now."""
    status, text = await page(f"{server.url}/metrics")
    assert status == 200, text
    return parse(text)
