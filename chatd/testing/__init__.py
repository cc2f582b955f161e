"""What ships for tests of chatd and of programs that embed it: servers, faults, a history checker, a bad network."""

from chatd.testing.server import ChatServer, ThreadedChatServer

__all__ = ["ChatServer", "ThreadedChatServer"]
