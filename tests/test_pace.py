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
    wait=0.0,
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
                if overloaded:
                    pace.overloaded(window, wait)
                else:
                    pace.failed(window)
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
    assert rate > 0.97 * capacity
    assert pace.limit < 3 * capacity + START


@pytest.mark.parametrize("capacity", [4, 32, 100])
async def test_a_server_that_refuses_is_approached_again_and_again(clock, capacity):
    pace = Pace()
    rate, refused, _ = await simulate(
        clock, pace, lambda active: 1.0, refuses=lambda active: active > capacity
    )
    assert rate > 0.97 * capacity
    assert refused < (0.02 if capacity > 4 else 0.05)


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
    assert pace.limit == START / 2  # half way to one call, which is always borne
    pace.overloaded(await pace.enter())
    assert pace.limit == START / 4


async def test_what_was_borne_before_and_is_refused_costs_an_eighth(clock):
    pace = Pace()
    await simulate(clock, pace, lambda active: 1.0, until=60.0, refuses=lambda n: n > 32)
    assert pace.limit == 32
    pace.active = 0  # those callers are gone
    pace.overloaded(pace.window)
    assert pace.limit == 32 * LESS


async def test_places_that_fall_away_are_missed_and_found_again(clock):
    """From 100 places to 25 and back: most of what there is is used, all the time."""

    def places() -> int:
        return 25 if 100 < clock.now < 300 else 100

    pace = Pace()
    rate, refused, _ = await simulate(
        clock, pace, lambda active: 1.0, until=400.0, refuses=lambda n: n > places()
    )
    assert rate > 0.85 * (25 + 100) / 2  # from 200 to 400 s
    assert refused < 0.05


async def test_calls_a_second_are_a_limit_too(clock):
    """Twenty calls a second of 0.5 to 5 s, and a second to wait where that was too much."""
    rng, pace, credit, last = random.Random(0), Pace(), 20.0, 0.0

    def refuses(_: int) -> bool:
        nonlocal credit, last
        credit, last = min(20.0, credit + 20.0 * (clock.now - last)), clock.now
        if credit < 1:
            return True
        credit -= 1
        return False

    rate, refused, _ = await simulate(
        clock,
        pace,
        lambda active: min(max(rng.lognormvariate(0, 0.8), 0.5), 5.0),
        refuses=refuses,
        wait=1.0,
    )
    assert rate > 0.85 * 20
    assert refused < 0.05


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
