"""Hostile clients: frames that no honest client sends, and their mutations, against a real server process.

``python -m chatd.testing.hostile --frames 200000 --seed 1`` says what the server made of them.
"""

from __future__ import annotations

from chatd.testing.hostile.corpus import Corpus, frame

__all__ = ["Corpus", "frame"]
