"""The turnstile, with a clock of the test's own."""

from __future__ import annotations

import asyncio

from chatd.transport.turnstile import Turnstile


class Clock:
    """The event loop's timers are real; what time it is, is not."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Crowd:
    """Entrants by number before a turnstile, and who of them is in."""

    def __init__(self, per_s: float, burst: int, *, waiting_max: int = 1_000, per_address_max: int = 1_000) -> None:
        self.clock = Clock()
        self.turnstile = Turnstile(
            per_s, burst, waiting_max=waiting_max, waiting_per_address_max=per_address_max, now_s=self.clock
        )
        self.entrants: list[Entrant] = []
        self.inside: list[int] = []
        self.changed = asyncio.Event()

    def come(self, count: int, address: str = "10.0.0.1") -> list[bool]:
        some = [Entrant(self, len(self.entrants) + n) for n in range(count)]
        self.entrants += some
        return [self.turnstile.come(one, address) for one in some]

    async def let_in(self, *numbers: int) -> None:
        """These are in, in this order, and nobody else."""
        async with asyncio.timeout(5):
            while len(self.inside) < len(numbers):
                self.changed.clear()
                await self.changed.wait()
        assert self.inside == list(numbers)


class Entrant:
    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd, self._number = crowd, number

    def enter(self) -> None:
        self._crowd.inside.append(self._number)
        self._crowd.changed.set()


async def test_a_burst_goes_in_at_once_and_the_rest_in_its_order_at_the_rate() -> None:
    crowd = Crowd(100.0, 2)
    assert crowd.come(5) == [True] * 5
    assert crowd.inside == [0, 1]
    assert len(crowd.turnstile) == 3
    for numbers in ((0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)):
        crowd.clock.now_s += 0.0101
        await crowd.let_in(*numbers)
    assert len(crowd.turnstile) == 0


async def test_who_comes_while_others_wait_does_not_overtake_them() -> None:
    crowd = Crowd(100.0, 1)
    crowd.come(2)
    crowd.clock.now_s += 0.0101  # there is a turn by now, and somebody has waited for it
    crowd.come(1)
    assert crowd.inside == [0]
    await crowd.let_in(0, 1)
    crowd.turnstile.close()


async def test_a_quiet_time_earns_a_burst_and_no_more() -> None:
    crowd = Crowd(10.0, 3)
    crowd.clock.now_s += 1_000.0
    crowd.come(4)
    assert crowd.inside == [0, 1, 2]
    crowd.turnstile.close()


async def test_who_left_while_it_waited_costs_no_turn() -> None:
    crowd = Crowd(100.0, 1)
    crowd.come(52)
    for one in crowd.entrants[1:51]:
        crowd.turnstile.leave(one)
    assert len(crowd.turnstile) == 1
    crowd.clock.now_s += 0.0101
    await crowd.let_in(0, 51)


async def test_one_address_does_not_fill_the_queue_and_gets_its_places_back() -> None:
    crowd = Crowd(100.0, 1, per_address_max=2)
    assert crowd.come(4) == [True, True, True, False]  # one is in, two wait
    assert crowd.come(1, "10.0.0.2") == [True]
    crowd.turnstile.leave(crowd.entrants[1])
    assert crowd.come(2) == [True, False]
    crowd.clock.now_s += 0.0101
    await crowd.let_in(0, 2)
    assert crowd.come(2) == [True, False]
    assert not crowd.turnstile.full
    crowd.turnstile.close()


async def test_the_queue_has_an_end() -> None:
    crowd = Crowd(100.0, 1, waiting_max=2)
    assert [crowd.come(1, f"10.0.0.{n}") for n in range(4)] == [[True], [True], [True], [False]]
    full = [crowd.turnstile.full]
    crowd.clock.now_s += 0.0101
    await crowd.let_in(0, 1)
    full.append(crowd.turnstile.full)
    assert full == [True, False]
    crowd.turnstile.close()


async def test_nobody_is_let_in_after_the_end() -> None:
    crowd = Crowd(100.0, 1)
    crowd.come(3)
    crowd.turnstile.close()
    crowd.clock.now_s += 1_000.0
    turned = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, turned.set)  # behind the timer that was cancelled
    await turned.wait()
    assert crowd.inside == [0]
    assert len(crowd.turnstile) == 0
