"""Which notifiers are there: chatd's own, those of other packages, and what is said of the ones that cannot be had."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import pytest
from push_worlds import LOCAL, context
from structlog.testing import capture_logs

from chatd.errors import ConfigError
from chatd.push import load as loading
from chatd.push.base import Context, MissingExtra, Notifier
from chatd.push.load import GROUP, load
from chatd.push.ntfy import make as make_ntfy
from chatd.settings import PushSettings

ALL = PushSettings(private_endpoints=True, webhook_url="http://hook.example/", webhook_secret="s")


class Packages:
    """Packages that are installed beside chatd: a module ``others`` with a name for each factory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._module = ModuleType("others")
        self._entries: list[EntryPoint] = []
        own = list(entry_points(group=GROUP))
        monkeypatch.setitem(sys.modules, "others", self._module)
        monkeypatch.setattr(loading, "entry_points", lambda *, group: own + self._entries if group == GROUP else [])

    def add(self, name: str, factory: object) -> None:
        attribute = f"{name}_{len(self._entries)}"
        setattr(self._module, attribute, factory)
        self._entries.append(EntryPoint(name, f"others:{attribute}", GROUP))

    def add_missing(self, name: str) -> None:
        self._entries.append(EntryPoint(name, "not_installed_at_all:make", GROUP))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Packages:
    return Packages(monkeypatch)


async def _close(made: dict[str, Notifier]) -> None:
    for one in made.values():
        await one.close()


async def test_our_own_are_there_and_none_that_is_not_configured() -> None:
    made, lines = await load(context(LOCAL))
    assert (sorted(made), lines) == (["ntfy", "webpush"], [])
    assert made["webpush"].public.keys() == {"vapid"}
    await _close(made)
    made, lines = await load(context(ALL))
    assert (sorted(made), lines) == (["ntfy", "webhook", "webpush"], [])
    assert {kind for kind, one in made.items() if one.every_user} == {"webhook"}
    await _close(made)


async def test_a_package_brings_its_own(packages: Packages) -> None:
    packages.add("pigeon", make_ntfy)
    made, lines = await load(context())
    assert sorted(made) == ["ntfy", "pigeon", "webpush"]
    assert lines == []
    await _close(made)


async def test_a_missing_extra_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "http_ece", None)  # importing it now raises ModuleNotFoundError
    made, lines = await load(context())
    assert sorted(made) == ["ntfy"]
    assert lines == ["webpush: Web Push needs the extra: pip install 'chatd[push]'"]
    await _close(made)


async def test_a_broken_package_costs_its_own_notifier_only(packages: Packages) -> None:
    async def raises(context: Context) -> Notifier | None:
        raise RuntimeError("no wings\nand more")

    async def silent(context: Context) -> Notifier | None:
        raise KeyError

    async def lacks(context: Context) -> Notifier | None:
        raise MissingExtra("pip install pigeons")

    packages.add("a_raises", raises)
    packages.add("b_silent", silent)
    packages.add("c_lacks", lacks)
    packages.add("d_none", 7)
    packages.add_missing("e_missing")
    packages.add("ntfy", make_ntfy)
    with capture_logs() as logs:
        made, lines = await load(context())
    assert sorted(made) == ["ntfy", "webpush"]
    assert lines == [
        "a_raises: others:a_raises_0 is broken: RuntimeError: no wings",
        "b_silent: others:b_silent_1 is broken: KeyError",
        "c_lacks: pip install pigeons",
        "d_none: others:d_none_3 is broken: TypeError: 'int' object is not callable",
        "e_missing: not_installed_at_all:make is broken: ModuleNotFoundError: No module named 'not_installed_at_all'",
        "ntfy: a second notifier of this name, others:ntfy_5, is left out",
    ]
    assert [(log["event"], log["log_level"]) for log in logs] == [("notifier_broken", "warning")] * 4
    assert [log["kind"] for log in logs] == ["a_raises", "b_silent", "d_none", "e_missing"]
    await _close(made)


async def test_a_wrong_setting_passes_through_and_nothing_stays_open(packages: Packages) -> None:
    closed: list[str] = []

    async def early(context: Context) -> Notifier | None:
        made = await make_ntfy(context)

        async def close() -> None:
            closed.append("early")

        made.close = close  # type: ignore[method-assign]
        return made

    packages.add("a_early", early)
    with pytest.raises(ConfigError, match="webhook_secret"):
        await load(context(PushSettings(webhook_url="http://hook.example/")))
    assert closed == ["early"]
