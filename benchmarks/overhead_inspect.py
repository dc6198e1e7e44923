"""The arm of overhead.py that plays in Inspect AI; runs in the peers' environment (`make peers`).

    .peers/bin/python benchmarks/overhead_inspect.py EPISODES CONCURRENCY FOLDER

A solver of three calls, a scripted model that answers at once, a log on disk. Each answer tells its
usage: without it Inspect counts tokens with a vocabulary that it downloads. Prints the seconds that
`eval` took after imports, by the clock and of the cores.
"""
# pyright: reportMissingImports=false

import json
import sys
import time
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import Generate, TaskState, solver

MODEL = "mockllm/model"
TEXT = "x" * 200
SEATS = ("attacker", "learner", "critic")


@solver
def three() -> Any:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for seat in SEATS:
            state.messages.append(ChatMessageUser(content=seat))
            state = await generate(state)
        return state

    return solve


def answer(*_: Any, **__: Any) -> ModelOutput:
    output = ModelOutput.from_content(MODEL, TEXT)
    output.usage = ModelUsage(input_tokens=10, output_tokens=10, total_tokens=20)
    return output


def main(episodes: int, concurrency: int, folder: str) -> None:
    task = Task(dataset=[Sample(input="anything") for _ in range(episodes)], solver=three())
    model = get_model(MODEL, custom_outputs=answer)
    started, cpu = time.perf_counter(), time.process_time()
    (log,) = eval(
        task,
        model=model,
        log_dir=folder,
        max_samples=concurrency,
        max_connections=concurrency,
        display="none",
    )
    taken = time.perf_counter() - started, time.process_time() - cpu
    done = log.results.completed_samples if log.results else 0
    assert (log.status, done) == ("success", episodes), log.error
    print(json.dumps(taken))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
