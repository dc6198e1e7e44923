"""Inspect AI against a server, for endpoint.py: an evaluation of one call a sample.

    .peers/bin/python benchmarks/endpoint_inspect.py URL CALLS FOLDER [MAX_CONNECTIONS]

Without the last word Inspect finds the number by itself (`adaptive_connections`, its default). It
prints how many samples were given up.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.solver import generate


def main() -> None:
    url, calls, folder, *width = sys.argv[1:]
    os.environ["SIM_API_KEY"] = "none"
    samples = [Sample(input=f"question {i}") for i in range(int(calls))]
    (log,) = eval(
        Task(dataset=samples, solver=generate()),
        model="openai-api/sim/tiny",
        model_base_url=url,
        max_connections=int(width[0]) if width else None,
        log_dir=folder,
        display="none",
        fail_on_error=False,
    )
    answered = [sample for sample in log.samples or () if sample.error is None]
    print(int(calls) - len(answered))


if __name__ == "__main__":
    main()
