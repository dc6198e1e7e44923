"""One scenario on three engines, one word or two of its YAML apart: what each lacks and says.

    SUPERALIGN_VLLM_PYTHON=.vllm/bin/python python benchmarks/engines.py [--episodes 64] [--json]

A model of characters is taught to judge in English's form, and is then played by `transformers`, by
`vllm`, and by `transformers serve`, a server with OpenAI's interface that this command starts. The
three runs lie in one store, of one protocol. Greedy verdicts should be the same; what a server does
not honour is told, and was found by asking it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from superalign.agents import Request, Scripted, chat
from superalign.learners import LEARNERS, learn_config
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Limits, Plan, Setting
from superalign.scenarios.resolve import build_cast, resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import Message, Row, Run, Store

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 1,
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
}
"""A head of 64: vLLM serves it on CPUs."""
SCENARIO = """
name: engines
world: {{kind: arithmetic, choices: 2}}
models: {{judge: {model}}}
protocol: {{name: blind}}
cast: {{judge: {{model: judge, temperature: 0.0, max_tokens: 12}}}}
episodes: {episodes}
limits: {{failed_share: 1.0}}
"""


def prompts(path: Path, n: int) -> list[tuple[Message, ...]]:
    """What a judge of the scenario is asked."""
    resolved, asked = resolve(Loaded.read(path)), list[tuple[Message, ...]]()

    def reply(request: Request) -> str:
        asked.append(request.messages)
        return "Verdict: 0"

    cast = build_cast(resolved, {"judge": Scripted(reply, "judge", chat)}, {})
    plans = [
        Plan(run="r", scenario="s", index=i, task=task, seed=i)
        for i, task in enumerate(resolved.world.tasks(n, 7))
    ]
    with tempfile.TemporaryDirectory() as place, Store.open(Path(place) / "s", write=True) as store:
        store.put_run(Run(id="r", scenario={}, origin="", protocol_hash="", version=""))
        setting = Setting(resolved.protocol, resolved.params, cast, store, resolved.world, Limits())
        asyncio.run(run_many(setting, plans, lambda _: None))
    return asked


def taught(folder: Path, asked: list[tuple[Message, ...]], steps: int) -> Path:
    """A model that ends as the dialect wants it: in `Verdict: ` and one of two numbers."""
    tiny = runpy.run_path(str(HERE.parent / "tests" / "tiny.py"))["tiny_llama"]
    base = tiny(folder / "newborn", **SHAPE)
    told: dict[str, Any] = {"seat": "judge", "source": "ai", "judge": "form", "turns": ()}
    rows = [
        Row(kind="sft", prompt=prompt, replies=(f"Verdict: {i % 2}",), rewards=None, **told)
        for i, prompt in enumerate(asked)
    ]
    config = learn_config({"method": "sft", "lr": 3e-3, "steps": steps, "batch": 16})
    LEARNERS["sft"](base, rows, config, folder / "judge")
    return folder / "judge"


@contextmanager
def third(weights: Path, log: Path):
    """`transformers serve`, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [BIN / "transformers", "serve", weights, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as server:
        try:
            for _ in range(600):
                try:
                    if httpx2.get(f"http://127.0.0.1:{port}/health").is_success:
                        break
                except httpx2.TransportError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def run(folder: Path, name: str, model: dict[str, Any], episodes: int) -> dict[str, Any]:
    """A run of the scenario by the command line, and what its store holds of it."""
    (folder / "engines.yaml").write_text(
        SCENARIO.format(model=json.dumps(model), episodes=episodes)
    )
    words = [BIN / "superalign", "run", "engines.yaml", "--json", "--store", "s.sqlite"]
    started = time.monotonic()
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        return {"engine": name, "refused": done.stderr.strip().splitlines()[-1][:300]}
    told = json.loads(done.stdout)
    with Store.open(folder / "s.sqlite") as store:
        found = list(store.episodes(told["run"]))
        protocol = store.run(told["run"]).protocol_hash
    turns = [turn for episode in found for turn in episode.turns]
    return {
        "engine": name,
        "lacks": told["lacks"],
        "protocol": protocol[:12],
        "episodes": told["episodes"],
        "failed": told["failed"],
        "verdicts": Counter(e.verdict.value for e in found if e.verdict),
        "by_task": {e.task.key: e.verdict.value for e in found if e.verdict},
        "tokens": sum(turn.token_ids is not None for turn in turns),
        "logprobs": sum(turn.logprobs is not None for turn in turns),
        "attempts": sum(len(turn.attempts) for turn in turns),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        script = {"engine": "scripted", "replies": ["Verdict: 0"]}
        (folder / "engines.yaml").write_text(
            SCENARIO.format(model=json.dumps(script), episodes=args.episodes)
        )
        weights = taught(folder, prompts(folder / "engines.yaml", 64), args.steps)
        local = {"path": "./judge", "dialect": "chat"}
        rows = [
            run(folder, engine, {"engine": engine, **local}, args.episodes)
            for engine in ("transformers", "vllm")
        ]
        with third(weights, folder / "serve.log") as url:
            model = {"engine": "openai", "base_url": url, "model": os.fspath(weights)}
            rows.append(run(folder, "transformers serve", model, args.episodes))
    first = rows[0].get("by_task", {})
    for row in rows:
        answers = row.pop("by_task", {})
        row["same"] = sum(answers.get(task) == value for task, value in first.items())
    facts = {name: version(name) for name in ("superalign", "torch", "transformers", "openai")}
    facts["python"] = platform.python_version()
    if args.json:
        print(json.dumps({"rows": rows, "versions": facts}, indent=2))
        return
    print(
        "| engine | lacks | episodes | failed | verdicts | as transformers | logprobs | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "refused" in row:
            print(f"| {row['engine']} | refused: {row['refused']} |")
            continue
        lacks = "; ".join(row["lacks"]).removeprefix("judge: ") or "nothing"
        said = ", ".join(f"{v}: {n}" for v, n in sorted(row["verdicts"].items()))
        head = f"| {row['engine']} | {lacks} | {row['episodes']} | {row['failed']} | {said} "
        print(f"{head}| {row['same']} | {row['logprobs']} | {row['seconds']} |")
    print(", ".join(f"{name} {number}" for name, number in facts.items()))


if __name__ == "__main__":
    main()
