"""The bench: a real server as a process, its load in another, and the history checker over all that clients saw.

``chatd bench`` and ``python -m bench`` call `main`. Linux only: it reads /proc. docs/performance.md says what each
figure means.
"""

from chatd.testing.load.run import main

__all__ = ["main"]
