"""Holds any store to the promises of ``chatd.store.base``: a check for each sentence, free of any test framework.

Give `run` a factory of backends and look at the results, or hand the entries of ``CHECKS`` to a test framework one by
one: each takes a `Backend` and raises AssertionError, with the broken promise as its message, or `Skipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from msgspec import Struct

from chatd.errors import ChatdError

# Importing them registers their checks, in this order.
from chatd.store.conformance import (  # noqa: F401
    accounts,
    blocks,
    erasing,
    faults,
    life,
    lists,
    logs,
    marks,
    presence,
    push,
    retention,
    walks,
)
from chatd.store.conformance.kit import CHECKS, Backend, Check, Fault, Skipped

__all__ = ["CHECKS", "Backend", "Check", "Factory", "Fault", "Result", "Skipped", "run", "run_check"]


class Result(Struct, frozen=True):
    """What one check said. ``error`` None and ``skipped`` None: the store keeps this promise."""

    name: str
    error: str | None = None
    skipped: str | None = None


Factory: TypeAlias = Callable[[], AbstractAsyncContextManager[Backend]]


async def run(factory: Factory) -> list[Result]:
    """Run every check, each on a backend of its own, and say how it went.

    Raises: what a store raises that is no ChatdError: a fault of the backend whose traceback is worth having.
    """
    return [await run_check(name, factory) for name in CHECKS]


async def run_check(name: str, factory: Factory) -> Result:
    """Run the check of this name, as `run` does."""
    async with factory() as backend:
        try:
            await CHECKS[name](backend)
        except Skipped as exc:
            return Result(name, skipped=str(exc))
        except AssertionError as exc:
            return Result(name, error=str(exc))
        except ChatdError as exc:
            return Result(name, error=f"{type(exc).__name__}: {exc}")
    return Result(name)
