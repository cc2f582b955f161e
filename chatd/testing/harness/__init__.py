"""The kill harness: many devices talk over a failing network while the server is killed again and again, and the
history of it all is checked after every kill. ``python -m chatd.testing.harness --cycles 300 --seed 1``.
"""

from chatd.testing.harness.run import Summary, run

__all__ = ["Summary", "run"]
