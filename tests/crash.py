"""Kills a scripted run with SIGKILL at random moments and goes on with it, again and again.

    python crash.py PLACES EPISODES KILLS SEED

PLACES is a path or URL with `{}` for a name, such as `/tmp/{}.sqlite`. Plays the run once
undisturbed into `whole`, then into `killed_N` until there were so many kills, and prints what
happened as JSON. The run is a forked child, so that a restart costs no imports. `test_crash.py`
holds the stores against each other.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import select
import signal
import sys
import time

from sqlalchemy import create_engine

from superalign.agents import Agent, Sampling, Scripted
from superalign.protocols import load_protocol
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting
from superalign.store import Question, Run, Store, Task
from superalign.store.verify import verify


class Sums:
    """A world in which `4` is right."""

    def cell(self, question):
        return "sums"

    def truth(self, question):
        return "4"

    def correct(self, question, answer):
        return answer == "4"

    def fault(self, question, answer):
        return None if answer == "4" else 1


async def pause(request):
    os.write(CALLS, b".")
    await asyncio.sleep(random.random() * 0.01)  # not by the seed: no two runs are in step


async def attack(request):
    await pause(request)
    return f"{request.seed % 89 + 10}+{request.seed % 83}"


async def answer(request):
    await pause(request)
    return random.Random(request.seed).choice(["4", "5", "6"])


async def criticise(request):
    await pause(request)
    if request.seed % 50 == 0:
        return "unreadable"
    return "Critique: ok" if request.view.ask.about[0].text == "4" else "Critique: 1"


async def play(place: str, episodes: int) -> None:
    """Play what the store does not hold yet."""
    scripts = {"attacker": attack, "learner": answer, "critic": criticise}
    cast = {seat: Agent(Scripted(script), seat, Sampling()) for seat, script in scripts.items()}
    with Store.open(place, write=True) as store:
        if not store.runs():
            store.put_run(Run(id="run", scenario={}, origin="", protocol_hash="", version=""))
        setting = Setting(PROTOCOL, PROTOCOL.params({}), cast, store, Sums())
        task = Task(question=Question(topic="sums"))
        plans = [
            Plan(run="run", scenario="crash", index=i, task=task, seed=i) for i in range(episodes)
        ]
        over = store.ended("run")
        todo = [plan for plan in plans if setting.episode_id(plan) not in over]
        os.write(CALLS, b"!")
        await run_many(setting, todo, lambda episode: None, 16)


def child(place: str, episodes: int, kill_after: float = math.inf) -> tuple[bool, int]:
    """Play in a child that is killed once it has made so many calls: (was it, how many it made)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            random.seed()
            asyncio.run(play(place, episodes))
            code = 0
        os._exit(code)
    calls = -1  # the first mark says that it has begun
    os.set_blocking(HEARD, False)
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and calls < kill_after:
        select.select([HEARD], [], [], 0.01)
        calls += heard()
    if ended[0] == 0:
        time.sleep(random.random() * 0.03)  # not at the call, but anywhere until the next commit
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    status = ended[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status), calls + heard()


def heard() -> int:
    """How many calls the child has made since this was last asked."""
    try:
        return len(os.read(HEARD, 65536))
    except BlockingIOError:
        return 0


def journalled(place: str) -> tuple[int, int]:
    """Turns in a store, and those of them that episodes without an end hold."""
    with Store.open(place) as store, store.connect() as db:
        every = db.exec_driver_sql("SELECT count(*) FROM turns").scalar_one()
        rest = "SELECT count(*) FROM turns WHERE episode NOT IN (SELECT id FROM episodes)"
        return every, db.exec_driver_sql(rest).scalar_one()


def new_place(places: str, name: str) -> str:
    """Where nothing lies yet; on PostgreSQL an empty database."""
    if places.startswith("postgresql"):
        server = create_engine(places.format("postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as db:
            db.exec_driver_sql(f"CREATE DATABASE {name}")
        server.dispose()
    return places.format(name)


def main(places: str, episodes: int, wanted: int, seed: int) -> None:
    rng, stores = random.Random(seed), [new_place(places, "whole")]
    _, whole = child(stores[0], episodes)
    most = 8 * whole / wanted  # calls between two kills: some runs end, others take many kills
    kills = reused = calls = damaged = runs = turns = 0
    while kills < wanted:
        place, over = new_place(places, f"killed_{runs}"), False
        stores.append(place)
        while not over:
            kill_after = rng.random() * most if kills < wanted else math.inf
            killed, made = child(place, episodes, kill_after)
            over, kills, calls = not killed, kills + killed, calls + made
            reused += journalled(place)[1] if killed else 0
            if kills % 10 == 0:
                with Store.open(place) as store:
                    damaged += len(verify(store)[1])
        runs, turns = runs + 1, turns + journalled(place)[0]
    facts = {"kills": kills, "reused": reused, "runs": runs, "calls": calls, "turns": turns}
    print(json.dumps({**facts, "damaged": damaged, "stores": stores}))


if __name__ == "__main__":
    HEARD, CALLS = os.pipe()
    PROTOCOL = load_protocol("critique")
    main(sys.argv[1], *map(int, sys.argv[2:]))
