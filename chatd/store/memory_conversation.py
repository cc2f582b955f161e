"""One conversation of the memory store: its log, its marks, and what is computed from both."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from chatd.model import Marks, Message, trimmed_place


@dataclass(slots=True)
class Conversation:
    """One log with its marks. ``changed``: the store-wide change number of its last message or mark."""

    log: list[Message] = field(default_factory=list)
    seqs: dict[tuple[str, str], int] = field(default_factory=dict)  # (sender, id) → seq, for ever
    marks: dict[str, dict[str, Marks]] = field(default_factory=dict)  # user → device → marks
    positions: dict[tuple[str, str], int] = field(default_factory=dict)  # (user, device) → seq held
    pushed: dict[str, int] = field(default_factory=dict)  # user → seq told of
    trimmed: int = 0  # all up to it are the place of what was trimmed
    changed: int = 0

    def user_marks(self, user: str) -> Marks:
        """The maximum over the user's devices."""
        devices = self.marks.get(user, {}).values()
        return Marks(max((m.delivered for m in devices), default=0), max((m.read for m in devices), default=0))

    def unread(self, user: str, read: int) -> int:
        """The peer's visible messages above max(read, own last sent seq)."""
        count = 0
        for seq in range(len(self.log), max(read, self.trimmed), -1):
            message = self.log[seq - 1]
            if message.sender == user:
                break
            count += not message.hidden
        return count

    def newest_of_peer(self, user: str, above: int) -> Message | None:
        """The peer's newest visible message above this seq."""
        for seq in range(len(self.log), max(above, self.trimmed), -1):
            message = self.log[seq - 1]
            if message.sender != user and not message.hidden:
                return message
        return None

    def erase(self, sender: str, messages_max: int) -> int:
        """Take the bodies of what ``sender`` wrote. Returns: of how many."""
        mine = [m for m in self.log[self.trimmed :] if m.sender == sender and not m.erased][:messages_max]
        for message in mine:
            self.log[message.seq - 1] = replace(message, body="", hidden=True, erased=True)
        return len(mine)

    def trim(self, conv: str, older_than_ms: int, messages_max: int) -> int:
        """Trim the oldest messages. Returns: how many."""
        upto = self.trimmed
        while upto < min(len(self.log), self.trimmed + messages_max) and self.log[upto].ts_ms < older_than_ms:
            upto += 1
        count = upto - self.trimmed
        if count:
            for message in self.log[self.trimmed : upto]:
                self.seqs.pop((message.sender, message.id), None)
            self.log[:upto] = [trimmed_place(conv, 1, upto, self.log[upto - 1].ts_ms)] * upto
            self.trimmed = upto
        return count
