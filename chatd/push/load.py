"""Finds the notifiers: chatd's own and those of other packages, all as entry points of one group."""

from __future__ import annotations

from importlib.metadata import entry_points

import structlog

from chatd.errors import ConfigError
from chatd.push.base import Context, Factory, MissingExtra, Notifier

GROUP = "chatd.notifiers"

log = structlog.get_logger("chatd.push")


async def load(context: Context) -> tuple[dict[str, Notifier], list[str]]:
    """Make every notifier that is there and configured.

    Returns: notifiers by kind, and one line for people about each that cannot be had. A package that is broken costs
    its own notifier only. Raises: ConfigError – a setting is wrong; nothing is left open.
    """
    made: dict[str, Notifier] = {}
    lines: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.name in made:
            lines.append(f"{entry.name}: a second notifier of this name, {entry.value}, is left out")
            continue
        try:
            factory: Factory = entry.load()
            notifier = await factory(context)
        except MissingExtra as exc:
            lines.append(f"{entry.name}: {exc}")
        except ConfigError:
            for one in made.values():
                await one.close()
            raise
        except Exception as exc:  # others' code: whatever it raises must not stop the server
            log.warning("notifier_broken", kind=entry.name, entry=entry.value, exc_info=exc)
            said = str(exc).partition("\n")[0]
            lines.append(f"{entry.name}: {entry.value} is broken: {type(exc).__name__}{f': {said}' if said else ''}")
        else:
            if notifier is not None:
                made[entry.name] = notifier
    return made, lines
