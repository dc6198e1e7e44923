"""Kills a scripted run with SIGKILL at random moments and goes on with it, again and again.

    python crash.py FOLDER EPISODES KILLS SEED

Plays the run once undisturbed into `whole.sqlite`, then into `killed-N.sqlite` until there were so
many kills, and prints what happened as JSON. The run is a forked child, so that a restart costs
no imports. `test_crash.py` holds the stores against each other.
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
from pathlib import Path

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


async def play(path: Path, episodes: int) -> None:
    """Play what the store does not hold yet."""
    scripts = {"attacker": attack, "learner": answer, "critic": criticise}
    cast = {seat: Agent(Scripted(script), seat, Sampling()) for seat, script in scripts.items()}
    with Store.open(path, write=True) as store:
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


def child(path: Path, episodes: int, kill_after: float = math.inf) -> tuple[bool, int]:
    """Play in a child that is killed once it has made so many calls: (was it, how many it made)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            random.seed()
            asyncio.run(play(path, episodes))
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


def journalled(path: Path) -> tuple[int, int]:
    """Turns in a store, and those of them that episodes without an end hold."""
    with Store.open(path) as store, store.connect() as db:
        every = db.exec_driver_sql("SELECT count(*) FROM turns").scalar_one()
        rest = "SELECT count(*) FROM turns WHERE episode NOT IN (SELECT id FROM episodes)"
        return every, db.exec_driver_sql(rest).scalar_one()


def main(folder: Path, episodes: int, wanted: int, seed: int) -> None:
    rng = random.Random(seed)
    _, whole = child(folder / "whole.sqlite", episodes)
    most = 8 * whole / wanted  # calls between two kills: some runs end, others take many kills
    kills = reused = calls = damaged = runs = turns = 0
    while kills < wanted:
        path, over = folder / f"killed-{runs}.sqlite", False
        while not over:
            kill_after = rng.random() * most if kills < wanted else math.inf
            killed, made = child(path, episodes, kill_after)
            over, kills, calls = not killed, kills + killed, calls + made
            reused += journalled(path)[1] if killed else 0
            if kills % 10 == 0:
                with Store.open(path) as store:
                    damaged += len(verify(store)[1])
        runs, turns = runs + 1, turns + journalled(path)[0]
    facts = {"kills": kills, "reused": reused, "runs": runs, "calls": calls, "turns": turns}
    print(json.dumps({**facts, "damaged": damaged}))


if __name__ == "__main__":
    HEARD, CALLS = os.pipe()
    PROTOCOL = load_protocol("critique")
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
