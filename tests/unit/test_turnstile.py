"""The turnstile, with a clock of the test's own."""

from __future__ import annotations

import asyncio

from chatd.transport.turnstile import Turnstile


class Clock:
    """The event loop's timers are real; what time it is, is not."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def here() -> bool:
    return False


async def passed(turns: list[asyncio.Task[None]], count: int) -> None:
    async with asyncio.timeout(5):
        await asyncio.gather(*turns[:count])
    assert [turn.done() for turn in turns] == [True] * count + [False] * (len(turns) - count)


async def test_a_burst_goes_in_at_once_and_the_rest_in_its_order_at_the_rate() -> None:
    clock = Clock()
    turnstile = Turnstile(100.0, 2, now_s=clock)
    turns = [asyncio.create_task(turnstile.turn(here)) for _ in range(5)]
    await passed(turns, 2)
    assert len(turnstile) == 3
    for count in (3, 4, 5):
        clock.now_s += 0.0101
        await passed(turns, count)
    assert len(turnstile) == 0


async def test_a_quiet_time_earns_a_burst_and_no_more() -> None:
    clock = Clock()
    turnstile = Turnstile(10.0, 3, now_s=clock)
    clock.now_s += 1_000.0
    turns = [asyncio.create_task(turnstile.turn(here)) for _ in range(4)]
    await passed(turns, 3)
    turns[3].cancel()


async def test_who_went_away_costs_no_turn() -> None:
    clock = Clock()
    turnstile = Turnstile(100.0, 1, now_s=clock)
    turns = [asyncio.create_task(turnstile.turn(here)) for _ in range(3)]
    await passed(turns, 1)
    turns.pop(1).cancel()
    clock.now_s += 0.0101
    await passed(turns, 2)


async def test_whose_client_left_while_it_waited_costs_no_turn() -> None:
    clock = Clock()
    turnstile = Turnstile(100.0, 1, now_s=clock)
    left = False
    first = asyncio.create_task(turnstile.turn(here))
    gone = [asyncio.create_task(turnstile.turn(lambda: left)) for _ in range(50)]
    last = asyncio.create_task(turnstile.turn(here))
    await passed([first, *gone, last], 1)
    left = True
    clock.now_s += 0.0101
    async with asyncio.timeout(5):
        await asyncio.gather(last, *gone)
