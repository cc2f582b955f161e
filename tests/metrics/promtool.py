"""Series of a real server, and what Prometheus makes of them: alerts that fire, queries of the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from scraping_rig import scrape

from chatd.testing import ChatServer

CONFIG = Path(__file__).parent.parent.parent / "config"
RULES = CONFIG / "prometheus" / "chatd.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((CONFIG / "grafana" / "chatd.json").read_text("utf-8"))
INTERVAL_S = 30
"""So far apart lie two scrapes for Prometheus, however fast a test takes them."""


def queries() -> dict[str, dict[str, str]]:
    """The dashboard's panels: title → legend → query, its variables filled in."""
    found = {}
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            found[panel["title"]] = {one["legendFormat"]: _filled(one["expr"]) for one in panel["targets"]}
    return found


def _filled(expr: str) -> str:
    for name, value in (("$job", "chatd"), ("$instance", ".*"), ("$__rate_interval", "2m")):
        expr = expr.replace(name, value)
    return expr


def metric_names(expr: str) -> set[str]:
    """The metrics of chatd that an expression names."""
    return set(re.findall(r"\bchatd_[a-z_]+", expr))


async def run(*command: str) -> str:
    """Run a program. Returns: what it said. Raises: AssertionError – it failed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[:2_000]
    return out.decode()


class Recording:
    """Looks at a server again and again; each look is a scrape. Then `ask` asks Prometheus."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self._looks: list[dict[str, float]] = []
        self._tests: list[dict[str, Any]] = []

    async def look(self) -> dict[str, float]:
        """Scrape once."""
        self._looks.append(await scrape(self._server))
        return self._looks[-1]

    def expect(self, *firing: str, shown: Sequence[tuple[str, str, float, bool]] = ()) -> None:
        """At the newest look exactly these alerts fire, and these lines of the dashboard are above a value or are not.

        ``shown``: title of the panel, legend of the line, value, whether the line is above it.
        """
        eval_time = f"{(len(self._looks) - 1) * INTERVAL_S}s"
        fires = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
        self._tests.append(
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": eval_time,
                "exp_samples": fires,
            }
        )
        for title, legend, value, above in shown:
            expr = f"(max({queries()[title][legend]}) or vector(0)) > bool {value}"
            samples = [{"labels": "{}", "value": int(above)}]
            self._tests.append({"expr": expr, "eval_time": eval_time, "exp_samples": samples})

    async def ask(self, directory: Path) -> None:
        """Give all looks to promtool, with the project's rules. Raises: AssertionError – it is not as expected."""
        names = sorted({name for look in self._looks for name in look})
        series = [
            {
                "series": _labelled(name),
                "values": " ".join(f"{look[name]!r}" if name in look else "_" for look in self._looks),
            }
            for name in names
        ]
        up = {"series": 'up{job="chatd",instance="a"}', "values": f"1x{len(self._looks)}"}
        file = {
            "rule_files": [str(RULES)],
            "evaluation_interval": f"{INTERVAL_S}s",
            "tests": [
                {"interval": f"{INTERVAL_S}s", "input_series": [up, *series], "promql_expr_test": self._tests},
            ],
        }
        path = directory / "recorded.test.yml"
        path.write_text(yaml.safe_dump(file, width=1_000_000), "utf-8")
        await run("promtool", "test", "rules", str(path))


def _labelled(name: str) -> str:
    base, _, labels = name.rstrip("}").partition("{")
    return f'{base}{{job="chatd",instance="a"{"," if labels else ""}{labels}}}'
