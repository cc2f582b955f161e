"""A history that ends and is followed by another one: devices have to notice, and what was answered may be gone."""

from __future__ import annotations

import random
from collections.abc import Mapping

from chatd.testing.harness.run import History, Killable, Summary
from chatd.testing.history.record import Acked, Final


class EndingSummary(Summary):
    """``resets``: devices told of another history. ``kept``, ``gone``: answered messages that it has, and may lack."""

    resets: int = 0
    kept: int = 0
    gone: int = 0

    def found(self, kind: str, where: str, detail: str = "") -> None:
        """Note an anomaly; a device that begins anew is none here, and is counted."""
        if kind == "reset":
            self.resets += 1
        else:
            super().found(kind, where, detail)


class EndingHistory(History):
    """Histories of one server, one after the other."""

    def __init__(self, server: Killable, dice: random.Random, summary: EndingSummary) -> None:
        super().__init__(server, dice, summary)
        self._told = summary
        self._places: Mapping[tuple[str, str], int] = {}
        self._answered = 0  # events that were looked at for answers

    async def _unsettled(self) -> str | None:
        for device in self._devices:
            if device.incarnation != self._server.incarnation:
                return f"{device.name} is in another history"
        return await super()._unsettled()

    def _judge_incarnations(self, count: int) -> None:
        """Each has a name of its own, and there may be many."""

    async def _finals(self, at: float) -> list[Final]:
        finals = await super()._finals(at)
        self._places = {(final.conv, entry.id): entry.seq for final in finals for entry in final.entries if entry.id}
        return finals

    def _judge_answered(self, sure: int) -> bool:
        """What was answered since the last time is where it was said to be, or from the event ``sure`` on may be gone.

        Returns: whether some is gone that may be.
        """
        events, gone = self._recorder.events, self._told.gone
        for at in range(self._answered, len(events)):
            event = events[at]
            if not isinstance(event, Acked):
                continue
            place = self._places.get((event.conv, event.id))
            if place == event.seq:
                self._told.kept += 1
            elif at >= sure:
                self._told.gone += 1
            else:
                self._told.found("lost", f"{event.conv} #{event.seq}", f"{event.id} was answered and is at {place}")
        self._answered = len(events)
        return self._told.gone > gone
