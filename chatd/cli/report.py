"""``chatd status`` for people: what a look found, in one screen. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from chatd.cli.figures import duration, latency, plain, rate, size, whole
from chatd.cli.looking import Look, called
from chatd.stats import Reading, Snapshot, between, total

WIDTH = 100
LISTED_MAX = 5

LATENCIES = (
    ("sent_seconds", "send → sent"),
    ("delivered_online_seconds", "sent → delivered"),
    ("delivered_offline_seconds", "… of who was away"),
    ("read_seconds", "delivered → read"),
    ("commit_seconds", "commit"),
    ("fsync_seconds", "fsync"),
    ("loop_lag_seconds", "event loop late"),
)
"""Histograms, and what people call them; of others their own name is shown behind these."""
TROUBLES = (
    ("store_errors", "store errors"),
    ("commits_failed", "commits refused by the store"),
    ("commits_unknown", "commits read back"),
    ("messages_refused", "sends refused"),
    ("frames_refused", "frames refused"),
    ("push_refused", "notifications refused"),
    ("push_given_up", "notifications given up"),
    ("hints_dropped", "hints dropped"),
    ("bus_gaps", "gaps of the bus"),
)


def report(before: Look, after: Look) -> list[str]:
    """The lines. The rates and latencies are those between the two looks."""
    all_of_it, reading = total(after.servers), between(before.servers, after.servers)
    lines = [_headline(after, all_of_it), ""]
    if any(one.pid for one in after.servers):  # who was silent has no figures
        lines += [*_figures(all_of_it, reading), "", *_latencies(all_of_it, reading)]
        lines += [*_listed(all_of_it), *_troubles(all_of_it)]
    if after.cluster is not None or len(after.servers) > 1:
        lines += ["", *_processes(before, after)]
    return [plain(line, WIDTH).rstrip() for line in lines]


def _headline(look: Look, one: Snapshot) -> str:
    state = "is ready" if look.ready else "is draining" if _is_draining(look, one) else "is NOT READY"
    up = look.cluster.up_s if look.cluster is not None else one.up_s
    version = look.cluster.version if look.cluster is not None else one.version
    why = f": {one.why}" if one.why and not one.draining else ""
    return f"chatd {version} {state}, up {duration(up)}{why}" if version else f"chatd {state}{why}"


def _is_draining(look: Look, one: Snapshot) -> bool:
    return one.draining or (look.cluster is not None and look.cluster.draining)


def _figures(one: Snapshot, reading: Reading) -> Iterator[str]:
    levels = reading.levels
    files = f" of {whole(one.open_files_max)}" if one.open_files_max else ""
    yield _row("store", f"{one.store}, a commit survives: {one.durability}; incarnation {one.incarnation}")
    yield _row("connections", f"{whole(one.connections)} of {whole(one.users)} users")
    yield _row("process", f"{size(one.rss_bytes)} of memory, {whole(one.open_files)}{files} files open")
    yield _row(
        "messages",
        f"{rate(reading.rate('messages_committed'))}/s committed, {rate(reading.rate('messages_live'))}/s to who is "
        f"connected, {rate(reading.rate('messages_read'))}/s to who catches up",
    )
    yield _row(
        "receipts", f"{rate(reading.rate('receipts_sent'))}/s; presence {rate(reading.rate('presence_frames'))}/s"
    )
    yield _row(
        "waiting",
        f"{whole(levels.get('queue_drafts', 0))} for a commit, {whole(levels.get('catch_ups', 0))} devices catch up, "
        f"{whole(levels.get('push_pending', 0))} pushes (oldest {duration(levels.get('push_lag_seconds', 0))})",
    )


def latency_names(one: Snapshot) -> list[tuple[str, str]]:
    """The histograms of times that a process has, the known ones first, each with what it is called."""
    known = [row for row in LATENCIES if row[0] in one.histograms]
    others = sorted(n for n in one.histograms if "_seconds" in n and n not in {name for name, _ in LATENCIES})
    return [*known, *((name, name) for name in others)]


def _latencies(one: Snapshot, reading: Reading) -> Iterator[str]:
    yield f"{'':19}{'now: half':>12}{'99 of 100':>12}{'since start: half':>20}{'99 of 100':>12}"
    for name, label in latency_names(one):
        now, ever = reading.values.get(name), one.histograms[name]
        yield (
            f"{plain(label, 19):19}{latency(now, 0.5):>12}{latency(now, 0.99):>12}"
            f"{latency(ever, 0.5):>20}{latency(ever, 0.99):>12}"
        )


def _listed(one: Snapshot) -> Iterator[str]:
    if one.hot:
        yield ""
        hot = ", ".join(f"{hot.conv} {whole(hot.count)}" for hot in one.hot[:LISTED_MAX])
        yield _row("hot", f"messages of the last minute: {hot}")
    if one.slow:
        yield ""
        for title, slow in zip(("slow devices", *[""] * LISTED_MAX), one.slow[:LISTED_MAX], strict=False):
            full = f", full for {duration(slow.full_s)}" if slow.full_s else ""
            more = " and more to come" if slow.behind else ""
            owed = f"{whole(slow.unacked)} unacknowledged{more}, {size(slow.owed_bytes)} not taken{full}"
            yield _row(title, f"{slow.user or '(no hello yet)'} {slow.device}: {owed}")


def _troubles(one: Snapshot) -> Iterator[str]:
    told = []
    for name, label in TROUBLES:
        count = sum(v for n, v in one.counters.items() if n == name or n.startswith(f"{name}{{"))
        if count:
            told.append(f"{whole(count)} {label}")
    if told:
        yield ""
        yield _row("since start", ", ".join(told))


def _processes(before: Look, after: Look) -> Iterator[str]:
    yield f"{'process':20}{'state':>10}{'pid':>9}{'starts':>8}{'connections':>13}{'messages/s':>12}{'memory':>10}"
    servers = {called(one): one for one in after.servers}
    olds = {one.key: one for one in before.servers}
    workers = {} if after.cluster is None else {worker.name: worker for worker in after.cluster.workers}
    for name in [*workers, *(name for name in servers if name not in workers)]:
        worker, one = workers.get(name), servers.get(name)
        state = worker.state if worker is not None else "ready" if one and one.ready else "not ready"
        pid = worker.pid if worker is not None else one.pid if one is not None else 0
        starts = str(worker.starts) if worker is not None else ""
        figures = ""
        if one is not None and one.pid:
            per_s = between([olds[one.key]] if one.key in olds else [], [one]).rate("messages_committed")
            figures = f"{whole(one.connections):>13}{rate(per_s):>12}{size(one.rss_bytes):>10}"
        elif one is not None:
            figures = f"   {one.why}"
        yield f"{plain(name, 19):20}{state:>10}{pid or '':>9}{starts:>8}{figures}"
    if after.cluster is not None and after.cluster.nodes:
        yield f"{after.cluster.nodes_ready} of {after.cluster.nodes} nodes on other hosts can be reached"


def _row(label: str, text: str) -> str:
    return f"{label:14}{text}"
