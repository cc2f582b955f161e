"""The Lua files of this package, each with what is common to all in front."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final


class Script:
    """A Lua file. ``sha``: what EVALSHA calls it. ``keys``: what it touches under its tag, from its second line."""

    def __init__(self, name: str, common: str, text: str) -> None:
        first, _, rest = text.partition("\n")
        head, colon, keys = rest.partition("\n")[0].partition("-- KEYS: ")
        if head or not colon:
            raise ValueError(f"{name}.lua: its second line does not name its keys")
        self.name = name
        self.keys = keys.split()
        self.text = f"{first}\n{common}{rest}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _scripts() -> dict[str, Script]:
    folder = files("chatd.store.redis") / "scripts"
    texts = {path.name.removesuffix(".lua"): path.read_text("utf-8") for path in folder.iterdir()}
    common = texts.pop("common")
    return {name: Script(name, common, text) for name, text in sorted(texts.items())}


SCRIPTS: Final = _scripts()
