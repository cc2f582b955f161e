"""The table of the metrics: name, kind, meaning. What is shown, documented and tested is made from it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from chatd.protocol import CLOSE_CODES

HOT_RANKS = 20
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


class Spec(Struct, frozen=True):
    """One metric. ``name`` without the prefix; a counter gets ``_total`` at the end.

    ``label``: the one label that it has, or "". ``values``: those that the label has from the start, and for a counter
    the only ones. ``buckets``: of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


OTHER = "other"
CLOSED_BY = (*(str(code) for code in CLOSE_CODES), OTHER)
STORE_ERRORS = ("unavailable", "unknown", "broken")
FAST = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)

SPECS = (
    Spec("messages_committed", "counter", "Messages committed by the store, each once."),
    Spec("messages_duplicate", "counter", "Sends that were answered with an earlier commit."),
    Spec("messages_refused", "counter", "Sends that were refused, for whatever reason."),
    Spec("messages_trimmed", "counter", "Messages that this process deleted, being older than retention.days."),
    Spec("messages_live", "counter", "Messages written to a device at once after their commit."),
    Spec("messages_read", "counter", "Messages read from the log for a device that was behind."),
    Spec("sent_seconds", "histogram", "From a message's entering its lane to the answer `sent`.", buckets=FAST),
    Spec(
        "delivered_online_seconds",
        "histogram",
        "From a message's commit to its recipient's first acknowledgement, of who was connected (one a message).",
        buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    ),
    Spec(
        "delivered_offline_seconds",
        "histogram",
        "The same of who was not connected when it was sent, and came later.",
        buckets=(1, 10, MINUTE_S, 5 * MINUTE_S, 30 * MINUTE_S, HOUR_S, 6 * HOUR_S, DAY_S, 3 * DAY_S, 7 * DAY_S),
    ),
    Spec(
        "read_seconds",
        "histogram",
        "From a message's first acknowledgement to its being read.",
        buckets=(0.5, 1, 2, 5, 10, 30, MINUTE_S, 5 * MINUTE_S, 30 * MINUTE_S, HOUR_S, 6 * HOUR_S, DAY_S, 7 * DAY_S),
    ),
    Spec(
        "hot_conversation_messages",
        "gauge",
        "Messages of the last half to whole minute in the conversation of this rank; none is named here.",
        label="rank",
        values=tuple(str(rank) for rank in range(1, HOT_RANKS + 1)),
    ),
    Spec("hot_window_messages", "gauge", "Messages in all conversations in the same time."),
    Spec("receipts_sent", "counter", "Receipt frames written to devices."),
    Spec("presence_frames", "counter", "Presence frames written to devices that watch, their answers not counted."),
    Spec("typing_frames", "counter", "Typing frames written to devices."),
    Spec("commits", "counter", "Commits of the store."),
    Spec("commits_failed", "counter", "Commits that the store refused."),
    Spec("commits_unknown", "counter", "Commits whose outcome had to be read back."),
    Spec("commit_seconds", "histogram", "Duration of a commit.", buckets=(0.0005, *FAST)),
    Spec("commit_drafts", "histogram", "Messages in a commit.", buckets=SIZES),
    Spec("commit_marks", "histogram", "Marks in a commit.", buckets=SIZES),
    Spec(
        "fsync_seconds",
        "histogram",
        "SQLite: duration of a COMMIT, which writes the log and, with store.synchronous = full, calls fsync.",
        buckets=(0.0002, 0.0005, *FAST),
    ),
    Spec(
        "store_errors",
        "counter",
        "Calls that the store failed: unavailable, nothing was done; unknown, it may have been; broken, it ends.",
        label="kind",
        values=STORE_ERRORS,
    ),
    Spec("queue_drafts", "gauge", "Messages that wait for their commit now."),
    Spec("queue_marks", "gauge", "Marks that wait for their commit now."),
    Spec("lanes", "gauge", "Conversations in which messages wait for their commit now."),
    Spec("lane_deepest_drafts", "gauge", "Messages that wait in the conversation where most do."),
    Spec("lanes_stopped", "gauge", "Conversations that wait for the outcome of a commit to be read back."),
    Spec("push_delivered", "counter", "Notifications that a push service took."),
    Spec("push_retried", "counter", "Notifications that did not get through and are tried again."),
    Spec("push_refused", "counter", "Notifications that a push service will never take."),
    Spec("push_gone", "counter", "Subscriptions that their push service called dead; they are removed."),
    Spec("push_given_up", "counter", "Notifications older than push.give_up_s; they are not sent."),
    Spec("push_clears", "counter", "Notifications taken off a screen, since they were read elsewhere."),
    Spec("push_pending", "gauge", "Conversations that may need a notification now."),
    Spec("push_lag_seconds", "gauge", "For how long the oldest due notification has waited."),
    Spec("hints_heard", "counter", "Hints from other processes."),
    Spec("hints_dropped", "counter", "Hints to other processes that were dropped, the bus being gone or full."),
    Spec("bus_gaps", "counter", "Times that hints from other processes may have been lost."),
    Spec("reconciled", "counter", "Sessions that were compared with the store, to find what a lost hint hid."),
    Spec("frames_received", "counter", "Frames from clients."),
    Spec("frames_refused", "counter", "Frames answered with an error."),
    Spec("connections_opened", "counter", "WebSocket connections opened."),
    Spec(
        "connections_closed",
        "counter",
        "WebSocket connections ended, by close code; 1006: lost without one, other: one that only the client knows.",
        label="code",
        values=CLOSED_BY,
    ),
    Spec("connections", "gauge", "WebSocket connections now."),
    Spec("upgrades_waiting", "gauge", "New WebSockets that wait for their turn (limits.upgrades_per_s)."),
    Spec("reconnects", "counter", "Hellos of devices that were here before."),
    Spec("resumes", "counter", "Of these, those that went on where they were."),
    Spec("resets", "counter", "Of these, those that were told to begin anew: the history is not the one they know."),
    Spec("gaps_repaired", "counter", "Times that a live device lacked messages, and was given them from the log."),
    Spec("catch_ups", "gauge", "Devices that are reading the log now."),
    Spec(
        "loop_lag_seconds",
        "histogram",
        "How late the event loop was, looked at four times a second.",
        buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
    ),
    Spec("process_cpu_seconds", "counter", "CPU time of the process, user and system."),
    Spec("process_resident_memory_bytes", "gauge", "Resident memory of the process."),
    Spec("process_open_fds", "gauge", "Open files of the process; every connection is one."),
    Spec("process_max_fds", "gauge", "The limit of open files."),
    Spec("process_start_time_seconds", "gauge", "When the process began, Unix time."),
)
