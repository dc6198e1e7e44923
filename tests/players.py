"""Scripted players of the arithmetic world: each reply follows from the call's seed."""

import asyncio
import random

from superalign.scenarios.arithmetic import Arithmetic, draw

WORLD = Arithmetic()


def attack(request):
    """A valid question of the cell that is asked for; now and then an invalid one."""
    rng = random.Random(request.seed)
    return draw(request.view.question.topic, rng) if rng.random() < 0.9 else "1+1"


def answer(request):
    """The right answer three times of four."""
    right = WORLD.solution(request.view.question)
    return right if random.Random(request.seed).random() < 0.75 else f"{right}0"


async def slowly(request):
    """The same answer, later."""
    await asyncio.sleep(random.Random(request.seed).random() * 0.01)
    return answer(request)


def gibberish(request):
    """A critique that now and then cannot be read."""
    return random.Random(request.seed).choice(["ok", "ok", "ok", "well"])
