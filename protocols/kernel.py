"""The kernel: runs many episodes at once and puts each on disk when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator

from superalign.store.records import Episode
from superalign.store.store import Entry, Store

from .flow import Flow
from .setting import Plan, Setting
from .stage import Stage

MOST = 4096
"""Episodes that are ever in flight."""


async def run_many(
    setting: Setting,
    plans: Iterable[Plan],
    on_end: Callable[[Episode], None],
    concurrency: int = MOST,
) -> None:
    """Play episodes, or resume them: those of a killed or parked run go on from their journal.

    See `play_all`. An episode that waits for a person is given to `on_end` too, but not stored.
    """
    journal = _journals(setting)
    stages = (Stage(setting, plan, journal(plan)) for plan in plans)
    await play_all(setting.store, stages, on_end, concurrency)


async def play_all(
    store: Store,
    stages: Iterable[Stage],
    on_end: Callable[[Episode], None],
    concurrency: int = MOST,
) -> None:
    """Play stages, as many at a time as the engines can use and at most `concurrency`; `on_end`
    gets each episode when it is on disk.

    Memory does not grow with their number: `stages` is read as places fall free. One episode's
    failure never ends another; a store that fails ends all.
    """
    ended, news = list[Episode](), asyncio.Event()

    async def one(stage: Stage) -> None:
        stage.answered = flow.answered
        episode = await stage.play()
        if episode.status != "waiting":
            store.put_episode(episode)
        ended.append(episode)
        news.set()

    async def report() -> None:
        """Wait for the disk, so that those who play need not."""
        while not playing.done() or ended:
            await news.wait()
            news.clear()
            batch = ended.copy()
            ended.clear()
            if playing.done():
                store.flush()  # nobody plays any more: do not wait for company
            else:
                await store.committed()
            for episode in batch:
                on_end(episode)

    flow = Flow(concurrency, one)
    with _little_garbage():
        try:
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(flow.run(stages))
                playing.add_done_callback(lambda _: news.set())
                group.create_task(report())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


@contextlib.contextmanager
def _little_garbage() -> Iterator[None]:
    """Collect garbage less often: at the default pace it takes a quarter of the kernel's time.

    Hundreds of episodes in flight are no garbage, nor is what was imported. What LangGraph leaves
    in cycles is small.
    """
    pace = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*pace)
        gc.unfreeze()


def _journals(setting: Setting) -> Callable[[Plan], list[Entry]]:
    """Looks up journalled turns, asking the store only for episodes a killed run left open."""
    store, left = setting.store, dict[str, set[str]]()

    def find(plan: Plan) -> list[Entry]:
        if plan.run not in left:
            left[plan.run] = store.unfinished(plan.run)
        if not left[plan.run]:
            return []
        episode = setting.episode_id(plan)
        return store.journal(plan.run, [episode])[episode] if episode in left[plan.run] else []

    return find
