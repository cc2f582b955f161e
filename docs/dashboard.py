"""The Grafana dashboard as a table: questions of an operator, and the queries that answer them. See generate.py."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

WIDTH, HEIGHT = 8, 8
COLUMNS = 3
HERE = '{job="$job", instance=~"$instance"}'


class Panel(NamedTuple):
    """``queries``: (legend, PromQL). ``unit``: as Grafana calls it."""

    title: str
    question: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _rate(metric: str, by: str = "") -> str:
    return f"sum {f'by ({by}) ' if by else ''}(rate(chatd_{metric}_total{HERE}[$__rate_interval]))"


def _sum(metric: str) -> str:
    return f"sum(chatd_{metric}{HERE})"


def _quantiles(metric: str, *quantiles: float) -> tuple[tuple[str, str], ...]:
    buckets = f"sum by (le) (rate(chatd_{metric}_bucket{HERE}[$__rate_interval]))"
    return tuple((f"p{100 * q:g}", f"histogram_quantile({q}, {buckets})") for q in quantiles)


def _mean(metric: str) -> str:
    rates = (f"sum(rate(chatd_{metric}_{part}{HERE}[$__rate_interval]))" for part in ("sum", "count"))
    return " / ".join(rates)


def _hot_share(of_ranks: str) -> str:
    """``of_ranks``: what is made of the ranks of a process."""
    hot = f"{of_ranks} by (job, instance) (chatd_hot_conversation_messages{HERE})"
    return f"max({hot} / (chatd_hot_window_messages{HERE} > 0))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Messages": (
        Panel(
            "Messages",
            "How much is written, and does anything not get in?",
            "ops",
            (
                ("committed", _rate("messages_committed")),
                ("repeated", _rate("messages_duplicate")),
                ("refused", _rate("messages_refused")),
            ),
        ),
        Panel(
            "Send → sent",
            "How long does a sender wait for its message to be stored?",
            "s",
            _quantiles("sent_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Sent → delivered, recipient connected",
            "How long until somebody who is there has it?",
            "s",
            _quantiles("delivered_online_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Sent → delivered, recipient away",
            "How long are people away from what is written to them?",
            "s",
            _quantiles("delivered_offline_seconds", 0.5, 0.95),
        ),
        Panel("Delivered → read", "How long until it is read?", "s", _quantiles("read_seconds", 0.5, 0.95)),
        Panel(
            "Hottest conversations",
            "Does one conversation take more than its share? (`chatd top` names it)",
            "percentunit",
            (
                (
                    "the hottest",
                    _hot_share("max"),
                ),
                (
                    "the hottest 20",
                    _hot_share("sum"),
                ),
            ),
        ),
    ),
    "Commits": (
        Panel("Commit", "How long does the store take?", "s", _quantiles("commit_seconds", 0.5, 0.95, 0.99)),
        Panel("fsync", "Is it the disk? (SQLite only)", "s", _quantiles("fsync_seconds", 0.5, 0.95, 0.99)),
        Panel(
            "In one commit",
            "How much does a commit take together?",
            "short",
            (("messages", _mean("commit_drafts")), ("marks", _mean("commit_marks"))),
        ),
        Panel(
            "Commits",
            "Do commits fail?",
            "ops",
            (
                ("done", _rate("commits")),
                ("refused by the store", _rate("commits_failed")),
                ("outcome unknown", _rate("commits_unknown")),
            ),
        ),
        Panel("Store errors", "Which calls fail, and how?", "ops", (("{{kind}}", _rate("store_errors", "kind")),)),
        Panel(
            "Waiting for a commit",
            "Does work come faster than it is stored?",
            "short",
            (("messages", _sum("queue_drafts")), ("marks", _sum("queue_marks"))),
        ),
        Panel(
            "Lanes",
            "In how many conversations does something wait, how deep, and does one stand still?",
            "short",
            (
                ("conversations", _sum("lanes")),
                ("deepest, messages", f"max(chatd_lane_deepest_drafts{HERE})"),
                ("standing still", _sum("lanes_stopped")),
            ),
        ),
        Panel("Retention", "How much is deleted for its age?", "ops", (("trimmed", _rate("messages_trimmed")),)),
    ),
    "Devices": (
        Panel(
            "Connections",
            "How many are here, and how many wait at the door?",
            "short",
            (("connected", _sum("connections")), ("waiting for their turn", _sum("upgrades_waiting"))),
        ),
        Panel(
            "Coming and going",
            "Who leaves, and why? (close codes: protocol.md §3.5)",
            "ops",
            (("opened", _rate("connections_opened")), ("closed {{code}}", _rate("connections_closed", "code"))),
        ),
        Panel(
            "Coming back",
            "Is there a reconnect storm? Must devices begin anew?",
            "ops",
            (("came back", _rate("reconnects")), ("went on", _rate("resumes")), ("reset", _rate("resets"))),
        ),
        Panel(
            "How messages get to devices",
            "At once, or from the log?",
            "ops",
            (
                ("live", _rate("messages_live")),
                ("from the log", _rate("messages_read")),
                ("gaps repaired", _rate("gaps_repaired")),
            ),
        ),
        Panel("Catching up", "How many read the log now?", "short", (("devices", _sum("catch_ups")),)),
        Panel(
            "Frames from clients",
            "Does a client misbehave?",
            "ops",
            (("received", _rate("frames_received")), ("refused", _rate("frames_refused"))),
        ),
        Panel(
            "Receipts, presence, typing",
            "What does everything beside messages cost?",
            "ops",
            (
                ("receipts", _rate("receipts_sent")),
                ("presence", _rate("presence_frames")),
                ("typing", _rate("typing_frames")),
            ),
        ),
    ),
    "Notifications": (
        Panel(
            "Notifications",
            "Do they arrive?",
            "ops",
            (
                ("delivered", _rate("push_delivered")),
                ("tried again", _rate("push_retried")),
                ("refused", _rate("push_refused")),
                ("given up", _rate("push_given_up")),
                ("subscription gone", _rate("push_gone")),
                ("cleared", _rate("push_clears")),
            ),
        ),
        Panel("Notification lag", "Do they wait for us?", "s", (("oldest", f"max(chatd_push_lag_seconds{HERE})"),)),
        Panel("Outbox", "How many may be owed?", "short", (("conversations", _sum("push_pending")),)),
    ),
    "Process": (
        Panel(
            "Event loop lag",
            "Does something hold up everything?",
            "s",
            _quantiles("loop_lag_seconds", 0.5, 0.99),
        ),
        Panel(
            "CPU",
            "How many cores does each process take?",
            "short",
            (("{{instance}}", f"rate(chatd_process_cpu_seconds_total{HERE}[$__rate_interval])"),),
        ),
        Panel(
            "Memory",
            "Does it grow?",
            "bytes",
            (("{{instance}}", f"chatd_process_resident_memory_bytes{HERE}"),),
        ),
        Panel(
            "Open files",
            "How near is the limit?",
            "percentunit",
            (("{{instance}}", f"chatd_process_open_fds{HERE} / chatd_process_max_fds{HERE}"),),
        ),
        Panel(
            "Up for",
            "Was it started again?",
            "s",
            (("{{instance}}", f"time() - chatd_process_start_time_seconds{HERE}"),),
        ),
        Panel(
            "Version",
            "What runs where?",
            "short",
            (("{{instance}}: {{version}}, Python {{python}}", f"chatd_build_info{HERE}"),),
        ),
    ),
    "Several processes": (
        Panel(
            "Hints",
            "Do the processes hear each other?",
            "ops",
            (("heard", _rate("hints_heard")), ("dropped", _rate("hints_dropped"))),
        ),
        Panel(
            "Gaps of the bus",
            "May hints have been lost, and was it made up for?",
            "ops",
            (("gaps", _rate("bus_gaps")), ("sessions compared", _rate("reconciled"))),
        ),
    ),
}


def dashboard() -> str:
    """The JSON that Grafana imports."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, inside in ROWS.items():
        panels.append({"type": "row", "title": row, "collapsed": False, "gridPos": _grid(0, y, 24, 1), "panels": []})
        y += 1
        for number, panel in enumerate(inside):
            x, line = number % COLUMNS * WIDTH, number // COLUMNS
            panels.append(_panel(panel, _grid(x, y + line * HEIGHT, WIDTH, HEIGHT)))
        y += -(-len(inside) // COLUMNS) * HEIGHT
    for number, one in enumerate(panels, 1):
        one["id"] = number
    made = {
        "title": "chatd",
        "uid": "chatd",
        "tags": ["chatd"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _grid(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel, grid: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.question,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": grid,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "legendFormat": legend, "expr": expr}
            for number, (legend, expr) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    names = {"job": "label_values(chatd_build_info, job)"}
    names["instance"] = 'label_values(chatd_build_info{job="$job"}, instance)'
    queries = [
        {
            "name": name,
            "type": "query",
            "datasource": source,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "includeAll": name == "instance",
            "multi": name == "instance",
            "current": {},
        }
        for name, query in names.items()
    ]
    return [{"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}}, *queries]
