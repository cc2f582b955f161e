"""The dashboard and the alerts name what a live server exports, all of it, and Prometheus takes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from promtool import CONFIG, DASHBOARD, RULES, metric_names, queries, run
from scraping_rig import scrape

from chatd import protocol
from chatd.testing import ChatServer
from chatd.testing.ports import free_port
from chatd.testing.speaker import Speaker

ROOT = CONFIG.parent
ABSENT: set[str] = set()
"""Deliberately on no panel; each with its reason."""
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]
}
PATIENCE_S = 30.0


@pytest.fixture
async def exported() -> AsyncIterator[set[str]]:
    """The metrics of a live server after some traffic."""
    async with ChatServer("sqlite", users=["alice", "bob"]) as server:
        alice = await Speaker.connect(server.url, await server.token("alice"))
        await alice.ask(protocol.Send(id=protocol.new_message_id(), to="bob", body="hi"), protocol.Sent)
        names = {name.partition("{")[0] for name in await scrape(server)}
        await alice.close()
        yield names


def of_histogram(names: set[str]) -> set[str]:
    """A histogram is there if one of its three series is."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


async def test_every_metric_of_dashboard_and_alerts_exists_and_every_metric_is_on_the_dashboard(
    exported: set[str],
) -> None:
    shown = set().union(*(metric_names(expr) for lines in queries().values() for expr in lines.values()))
    shown |= {"chatd_build_info"}
    alerted = set().union(*(metric_names(rule["expr"]) for rule in ALERTS.values()))
    variables = {name for one in DASHBOARD["templating"]["list"] for name in metric_names(str(one["query"]))}
    assert sorted((shown | alerted | variables) - exported) == []
    assert sorted(of_histogram(exported) - of_histogram(shown) - ABSENT) == []
    assert sorted(ABSENT - exported) == []
    assert len(alerted) >= 15


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"].endswith((".", "?", ")")), f"{panel['title']} answers no question"
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len(queries()) == sum(panel["type"] != "row" for panel in panels), "a title twice"


def test_every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, flags=re.MULTILINE | re.DOTALL))
    assert list(sections) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}
        parts = re.findall(r"^\*\*(.+?)\*\*", sections[name], flags=re.MULTILINE)
        assert parts == ["Means.", "Look at.", "Way out."], name


def test_the_runbook_names_only_panels_that_are_there() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    named = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", runbook))
    sections = {"Metrics", "Limits", "Redis", "slow devices"}  # of the other manual, of chatd top
    assert sorted(named - sections - queries().keys()) == []
    manual = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert [
        name for name in ("Metrics", "Limits", "Redis") if not re.search(rf"^##+ .*{name}", manual, re.MULTILINE)
    ] == []


def test_every_alert_is_tested_on_series() -> None:
    text = (RULES.parent / "chatd.rules.test.yml").read_text("utf-8")
    patterns = [p for found in re.findall(r'alertname=~?"([^"]+)", alertstate', text) for p in found.split("|")]
    named = {rule for rule in ALERTS for pattern in patterns if re.fullmatch(pattern, rule)}
    named |= set(re.findall(r"alertname: (\w+)", text)) | set(re.findall(r'alertname="(\w+)", instance', text))
    assert sorted(ALERTS.keys() - named) == []


async def test_promtool_takes_the_rules_and_the_configuration_and_the_rules_do_what_they_should() -> None:
    assert f"{len(ALERTS)} rules found" in await run("promtool", "check", "rules", str(RULES))
    await run("promtool", "check", "config", str(RULES.parent / "prometheus.yml"))
    await run("promtool", "test", "rules", str(RULES.parent / "chatd.rules.test.yml"))


async def test_promtool_finds_no_fault_with_the_page_that_a_server_serves(tmp_path: Path) -> None:
    async with (
        ChatServer(users=["alice"]) as server,
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/metrics") as answer,
    ):
        page = await answer.read()
    path = tmp_path / "page"
    path.write_bytes(page)
    await run("sh", "-c", f"promtool check metrics < {path}")


async def test_a_real_prometheus_scrapes_a_server_and_loads_the_rules(tmp_path: Path) -> None:
    port = free_port()
    async with ChatServer() as server:
        text = (RULES.parent / "prometheus.yml").read_text("utf-8")
        text = text.replace("localhost:8080", server.url.removeprefix("http://")).replace("15s", "200ms")
        (tmp_path / "prometheus.yml").write_text(text, "utf-8")
        (tmp_path / "chatd.rules.yml").write_bytes(RULES.read_bytes())
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        )
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                (sample,) = await answered(http, "/api/v1/query?query=chatd_build_info", "result")
                assert sample["metric"]["job"] == "chatd"
                (up,) = await answered(http, "/api/v1/query?query=up", "result")
                assert up["value"][1] == "1"
                for title, lines in queries().items():
                    for expr in lines.values():
                        async with http.get("/api/v1/query", params={"query": expr}) as answer:
                            assert (await answer.json())["status"] == "success", title
                groups = await answered(http, "/api/v1/rules", "groups")
                rules = [rule for group in groups for rule in group["rules"]]
                assert {rule["name"]: rule["health"] for rule in rules}.keys() == ALERTS.keys()
                assert [rule["name"] for rule in rules if rule["state"] != "inactive" or rule.get("lastError")] == []
        finally:
            process.terminate()
            await process.wait()


async def answered(http: aiohttp.ClientSession, path: str, key: str) -> list[Any]:
    """What Prometheus has there, as soon as there is something."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with http.get(path) as answer:
                    found: list[Any] = (await answer.json())["data"][key] if answer.status == 200 else []
            except aiohttp.ClientConnectionError:  # it does not listen yet
                found = []
            if found:
                return found
            await asyncio.sleep(0.05)
