"""How many calls an endpoint is sent at once: endpoints simulated on a clock of their own."""

import asyncio
import heapq
import random
from itertools import count

import pytest

from superalign.agents import pace as pacing
from superalign.agents.pace import LESS, START, Pace


class Clock:
    """Time that passes only when everybody waits."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


async def simulate(
    clock,
    pace,
    latency,
    clients=1024,
    until=400.0,
    refuses=lambda active: False,
    overloaded=True,
):
    """`clients` callers without end. Gives the answers a second of the last half, the share of
    calls that were refused in it, and the most calls that were ever under way."""
    events, number = [], count()
    answered, refused, most = [], [], 0

    async def caller() -> None:
        nonlocal most
        while clock.now < until:
            window = await pace.enter()
            most = max(most, pace.active)
            bad = refuses(pace.active)
            done = asyncio.get_running_loop().create_future()
            seconds = 0.01 if bad else latency(pace.active)
            began = clock.now
            heapq.heappush(events, (began + seconds, next(number), done))
            await done
            pace.leave()
            if bad:
                refused.append(clock.now)
                (pace.overloaded if overloaded else pace.failed)(window)
            else:
                answered.append(clock.now)
                pace.succeeded(window, 10, clock.now - began)

    callers = [asyncio.create_task(caller()) for _ in range(clients)]
    while clock.now < until:
        for _ in range(6):
            await asyncio.sleep(0)
        clock.now, _, done = heapq.heappop(events)
        done.set_result(None)
    for task in callers:
        task.cancel()
    late = [sum(t > until / 2 for t in times) for times in (answered, refused)]
    return late[0] / (until / 2), late[1] / max(sum(late), 1), most


@pytest.mark.parametrize("capacity", [4, 32, 100])
async def test_a_server_that_queues_is_kept_busy_and_no_more(clock, capacity):
    """With `capacity` places of one second each: more calls at once only wait longer."""
    pace = Pace()
    rate, _, _ = await simulate(clock, pace, lambda active: max(1.0, active / capacity))
    assert rate > 0.9 * capacity
    assert pace.limit < 3 * capacity + START


@pytest.mark.parametrize("capacity", [4, 32, 100])
async def test_a_server_that_refuses_is_approached_again_and_again(clock, capacity):
    pace = Pace()
    rate, refused, _ = await simulate(
        clock, pace, lambda active: 1.0, refuses=lambda active: active > capacity
    )
    assert rate > 0.8 * capacity
    assert refused < (0.1 if capacity > 4 else 0.3)


async def test_faults_by_chance_do_not_stop_it(clock):
    """One error in five: the server has places for sixty-four, and most of them are used."""
    rng, pace = random.Random(0), Pace()
    rate, failed, _ = await simulate(
        clock,
        pace,
        lambda active: max(1.0, active / 64),
        refuses=lambda active: rng.random() < 0.2,
        overloaded=False,
    )
    assert rate > 0.6 * 64
    assert 0.1 < failed < 0.3


async def test_errors_of_most_calls_do(clock):
    pace = Pace()
    await simulate(
        clock,
        pace,
        lambda active: 1.0,
        until=20.0,
        refuses=lambda active: True,
        overloaded=False,
    )
    assert pace.limit == 1.0


async def test_the_cap_is_never_passed(clock):
    assert (await simulate(clock, Pace(5), lambda active: 1.0, until=50.0))[2] == 5


async def test_few_callers_raise_no_limit(clock):
    pace = Pace()
    await simulate(clock, pace, lambda active: 1.0, clients=3, until=100.0)
    assert pace.limit == START


async def test_calls_that_were_under_way_together_lower_it_once(clock):
    pace = Pace()
    windows = [await pace.enter() for _ in range(8)]
    for window in windows:
        pace.leave()
        pace.overloaded(window)
    assert pace.limit == START * LESS
    pace.overloaded(await pace.enter())
    assert pace.limit == START * LESS**2


async def test_nobody_enters_while_it_holds():
    pace = Pace()
    pace.hold(0.05)
    entering = asyncio.create_task(pace.enter())
    await asyncio.sleep(0)
    assert not entering.done()
    await entering
    assert pace.active == 1


async def test_who_gives_up_leaves_no_place_taken():
    pace = Pace(1)
    await pace.enter()
    waiting = [asyncio.create_task(pace.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    pace.leave()  # the place goes to the second
    waiting[1].cancel()  # which has it, and does not know yet
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    await waiting[2]
    assert pace.active == 1
