"""The Lua files of this package, each with what is common to all in front."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final


class Script:
    """A Lua file. ``sha``: what EVALSHA calls it."""

    def __init__(self, name: str, common: str, text: str) -> None:
        first, _, rest = text.partition("\n")
        self.name = name
        self.text = f"{first}\n{common}{rest}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _scripts() -> dict[str, Script]:
    folder = files("chatd.store.redis") / "scripts"
    texts = {path.name.removesuffix(".lua"): path.read_text("utf-8") for path in folder.iterdir()}
    common = texts.pop("common")
    return {name: Script(name, common, text) for name, text in sorted(texts.items())}


SCRIPTS: Final = _scripts()
