"""The history checker: clients record what they did and saw, `check` says whether the server kept its word.

::

    recorder = Recorder("load-1")
    phone = recorder.device("alice", "phone")
    phone.opened("c1", incarnation, watermarks={})
    phone.invoke(conv, id, body)
    phone.received("c1", frame)  # every decoded server frame
    phone.settled()  # at the end, when nothing is under way
    recorder.final(conv, incarnation, entries)  # each log, read through history
    recorder.counted("store", (await store.counts()).messages)
    assert check(recorder.events).clean
"""

from chatd.testing.history.check import check
from chatd.testing.history.record import DeviceRecorder, Event, Recorder
from chatd.testing.history.report import Anomaly, Kind, Report

__all__ = ["Anomaly", "DeviceRecorder", "Event", "Kind", "Recorder", "Report", "check"]
