"""Who goes next: the line before an engine, and how many episodes are in flight."""

import asyncio
import gc
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Agent, Completion, Sampling, chat
from superalign.agents.line import Line
from superalign.protocols.flow import LESS, LINE, START, Flow
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan
from superalign.store import Question, Task

# The line.


def test_one_episode_is_served_as_it_came():
    line: Line[int] = Line()
    for i in range(5):
        line.push(i, "a")
    assert [line.pop() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_an_episode_that_asks_once_waits_for_one_call_of_every_other():
    line: Line[str] = Line()
    for i in range(100):
        line.push(f"wide {i}", "wide")
    for name in "abc":
        line.push(name, name)
    assert [line.pop() for _ in range(5)] == ["wide 0", "a", "b", "c", "wide 1"]


def test_who_comes_later_does_not_wait_for_the_whole_line():
    line: Line[str] = Line()
    for i in range(100):
        line.push(f"wide {i}", "wide")
    for _ in range(40):
        line.pop()
    line.push("late", "late")
    assert "late" in [line.pop() for _ in range(2)]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=200))
def test_every_call_is_served_once_and_in_its_episodes_order(moves):
    line, pushed, served = Line[tuple[str, int]](), Counter[str](), []
    for episode, pops in moves:
        line.push((episode, pushed[episode]), episode)
        pushed[episode] += 1
        if pops:
            served.append(line.pop())
    assert len(line) == len(moves) - len(served)
    served += [line.pop() for _ in range(len(line))]
    for episode, n in pushed.items():
        assert [i for e, i in served if e == episode] == list(range(n))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6))
def test_whoever_waits_gets_as_many_places_as_any_other_that_waits(calls):
    line: Line[int] = Line()
    for episode, n in enumerate(calls):
        for _ in range(n):
            line.push(episode, str(episode))
    served = Counter[int]()
    for _ in range(sum(calls)):
        served[line.pop()] += 1
        waiting = [served[e] for e, n in enumerate(calls) if served[e] < n]
        assert max(waiting, default=0) - min(waiting, default=0) <= 1


def test_what_a_line_remembers_is_bounded_by_what_waits():
    line: Line[int] = Line()
    line.push(-1, "first")
    for i in range(10_000):
        line.push(i, str(i))
        line.pop()
    assert len(line) == 1
    assert len(line._last) <= 2 * len(line) + 65


def test_a_stream_of_newcomers_holds_nobody_up():
    line: Line[str] = Line()
    line.push("first", "long")
    line.push("new", "new")
    assert line.pop() == "first"
    line.push("second", "long")
    served = []
    for i in range(20):
        line.push(f"new {i}", f"new {i}")
        served.append(line.pop())
    assert "second" in served[:3]


def test_clearing_gives_back_all_that_waits():
    line: Line[int] = Line()
    for i in range(3):
        line.push(i, "a")
    assert (sorted(line.clear()), len(line)) == ([0, 1, 2], 0)


# The window.


def test_the_window_grows_while_no_call_waits_and_shrinks_where_many_do():
    flow: Flow[int] = Flow(1000, lambda job: asyncio.sleep(0))
    assert flow.window == START
    flow.answered(0.0)
    assert flow.window == START + 1
    flow.answered(LINE)
    assert flow.window == START + 1
    flow.answered(LINE + 0.01)
    assert flow.window == START + 1 - LESS


def test_the_window_keeps_between_one_and_the_cap():
    flow: Flow[int] = Flow(START + 2, lambda job: asyncio.sleep(0))
    for _ in range(10):
        flow.answered(0.0)
    assert flow.window == START + 2
    for _ in range(10_000):
        flow.answered(9.0)
    assert flow.window == 1


async def test_every_job_is_done_once_and_the_first_failure_ends_all():
    done: list[int] = []

    async def do(job: int) -> None:
        await asyncio.sleep(0)
        done.append(job)

    await Flow(7, do).run(range(100))
    assert sorted(done) == list(range(100))

    async def fails(job: int) -> None:
        if job == 50:
            raise ValueError("50")
        await asyncio.sleep(0)

    with pytest.raises(ValueError, match="50"):
        await Flow(7, fails).run(range(10**9))


async def test_nothing_is_begun_after_a_cancellation():
    begun: list[int] = []

    async def do(job: int) -> None:
        begun.append(job)
        try:
            await asyncio.sleep(3600)
        finally:
            flow.answered(0.0)  # the call of an episode that is being ended

    flow = Flow[int](100, do)
    task = asyncio.create_task(flow.run(range(10**9)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == list(range(START))


# Episodes on an engine.


class Places:
    """An engine of so many places. Its calls take one pass of the loop each, and are counted."""

    name, dialect = "places", chat

    def __init__(self, places: int) -> None:
        self.places, self.busy, self.passes, self.used = places, 0, 0, 0
        self.line: Line[asyncio.Future[None]] = Line()
        self.turn: asyncio.Task[None] | None = None

    @property
    def pressure(self) -> float:
        return len(self.line) / self.places

    async def generate(self, request) -> Completion:
        place = asyncio.get_running_loop().create_future()
        self.line.push(place, request.episode)
        if self.turn is None or self.turn.done():
            self.turn = asyncio.create_task(self.run())
        await place
        return Completion("4")

    async def run(self) -> None:
        while self.line:
            batch = [self.line.pop() for _ in range(min(self.places, len(self.line)))]
            self.passes, self.used = self.passes + 1, self.used + len(batch)
            for place in batch:
                place.set_result(None)
            for _ in range(40):  # whoever was answered asks again before the next pass
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Nothing to let go of."""


class Sums:
    """Plans one by one, and how many of them are alive."""

    def __init__(self, n: int) -> None:
        self.n, self.begun = n, 0
        self.alive: weakref.WeakSet[Plan] = weakref.WeakSet()
        self.most = 0

    def __iter__(self):
        for i in range(self.n):
            task = Task(question=Question(topic="sums"))
            plan = Planned(run="run", scenario="test", index=i, task=task, seed=i)
            self.begun += 1
            self.alive.add(plan)
            self.most = max(self.most, len(self.alive))
            yield plan
            del plan


class Planned(Plan):
    """A plan that can be looked for."""

    def __hash__(self) -> int:
        return id(self)


async def test_as_many_are_in_flight_as_keep_the_engine_full(setting):
    engine, ended = Places(100), 0
    agent = Agent(engine, "places", Sampling())
    stage, sums = setting(attacker=agent, learner=agent), Sums(2000)
    begun_when_ended = []

    def end(episode) -> None:
        nonlocal ended
        ended += 1
        begun_when_ended.append(sums.begun - ended)

    await run_many(stage, sums, end)
    assert ended == 2000
    middle = begun_when_ended[1000:1500]
    assert 100 <= max(middle) <= 300  # a line, and what is on its way to the disk
    assert engine.used / engine.passes > 75


async def later(request) -> str:
    await asyncio.sleep(0)
    return "4"


@pytest.mark.parametrize("script", [["4"], later])
async def test_what_is_queued_takes_no_memory(setting, script):
    """Plans are drawn as places fall free, and dropped as their episodes end."""
    sums, ended = Sums(3000), Counter[str]()
    await run_many(setting(learner=script), sums, lambda e: ended.update([e.status]), 64)
    assert ended == {"done": 3000}
    assert sums.most < 1000  # in flight, on the way to the disk, and in cycles not yet collected
    gc.collect()
    assert len(sums.alive) == 0
