"""How busy episodes keep an engine: tokens a second of 512 at once, against the same calls flat.

    SUPERALIGN_VLLM_PYTHON=.vllm/bin/python python benchmarks/saturation.py [--json] [--plot FILE]

Flat are the very requests that the episodes made, all at once, to the same engine, with no graph,
no store and nobody who waits for anybody: the most that it gives. Episodes wait for each other's
turns, and everything they say is stored. A first round, not counted, collects the requests and
warms the engine; then episodes and flat take turns, in the other order each time. The rest of the
machine slows both, so the share is that of each pair.

The organisms have 0.8 million weights, so few that a graph's step costs as much as a call. `wide`
has random ones of the given width in their place, in debates alone: its attacks are no sums. What
its judge says is no verdict, so those episodes fail, after their last call.

Target: a median of 90% or more. Without a Python with vLLM that arm is left out, and it says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superalign.agents import Completion, Model, Request, complete
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Limits, Plan, Setting
from superalign.scenarios import organism
from superalign.scenarios.resolve import Resolved, build_cast, build_models, resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import BadInput, Episode, Run, Store

TARGET = 0.9
SCENARIOS = {
    "debate": """
name: debate
world: {{kind: arithmetic, choices: 2}}
models: {{tiny: {{engine: {engine}, path: {debater}}}}}
protocol: {{name: debate, rounds: 2}}
cast:
  debater_a: {{model: tiny, temperature: 0.5}}
  debater_b: {{model: tiny, temperature: 0.5}}
  judge: {{model: tiny, max_tokens: 4}}
episodes: {episodes}
""",
    "critique": """
name: critique
world: {{kind: arithmetic}}
models: {{tiny: {{engine: {engine}, path: {organism}}}}}
protocol: {{name: critique, samples: 2, revisions: 1}}
cast:
  attacker: {{model: tiny, max_tokens: 12}}
  learner: {{model: tiny, max_tokens: 40}}
  critic: {{model: tiny, temperature: 0.0, max_tokens: 4}}
episodes: {episodes}
""",
}


class Noting:
    """A model that notes what it is asked."""

    def __init__(self, model: Any) -> None:
        self.model, self.name, self.dialect = model, model.name, model.dialect
        self.asked: list[Request] = []
        self.tokens = 0

    @property
    def pressure(self) -> float:
        return self.model.pressure if hasattr(self.model, "pressure") else 0.0

    async def generate(self, request: Request) -> Completion:
        self.asked.append(request)
        said = await complete(self.model, request)
        self.tokens += said.completion_tokens or 0
        return said

    async def close(self) -> None:
        await self.model.close()


def plans(resolved: Resolved, n: int) -> list[Plan]:
    world = resolved.world
    if "attacker" in resolved.protocol.seats:
        tasks = [world.topic(world.cells[i % len(world.cells)]) for i in range(n)]
    else:
        tasks = list(world.tasks(n, 0))
    name = resolved.loaded.scenario.name
    return [Plan(run="bench", scenario=name, index=i, task=t, seed=i) for i, t in enumerate(tasks)]


async def episodes(resolved: Resolved, model: Noting, folder: Path) -> dict[str, float]:
    """Play all episodes into a new store."""
    scenario, before, ended = resolved.loaded.scenario, model.tokens, list[Episode]()
    model.asked.clear()
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        Store.open(Path(place) / "s.sqlite", write=True) as store,
    ):
        store.put_run(Run(id="bench", scenario={}, origin="", protocol_hash="", version=""))
        models: dict[str, Model] = {"tiny": model}
        setting = Setting(
            resolved.protocol,
            resolved.params,
            build_cast(resolved, models, {}),
            store,
            resolved.world,
            Limits(),
        )
        todo = plans(resolved, scenario.episodes)
        started = time.perf_counter()
        await run_many(setting, todo, ended.append, scenario.episodes)
        seconds = time.perf_counter() - started
    failed = sum(episode.status != "done" for episode in ended)
    return {"rate": (model.tokens - before) / seconds, "seconds": seconds, "failed": failed}


async def flat(model: Noting, requests: Sequence[Request]) -> dict[str, float]:
    before, started = model.tokens, time.perf_counter()
    await asyncio.gather(*map(model.generate, requests))
    seconds = time.perf_counter() - started
    return {"rate": (model.tokens - before) / seconds, "seconds": seconds}


def wide_model(folder: Path, width: int) -> str:
    """A folder with the debater's tokenizer and untrained weights of another width."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shipped, name = Path(organism.__file__).parent / "organisms" / "arithmetic-debater", f"w{width}"
    config: Any = AutoConfig.from_pretrained(shipped)
    config.hidden_size, config.intermediate_size = width, 2 * width
    config.num_attention_heads = config.num_key_value_heads = width // config.head_dim
    config.max_position_embeddings = 1024  # it seldom ends a speech before its limit
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / name)
    tokenizer: Any = AutoTokenizer.from_pretrained(shipped)
    tokenizer.save_pretrained(folder / name)
    return name


async def measure(
    engine: str, name: str, wide: int, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    path = folder / f"{name}-{engine}-{wide}.yaml"
    weights = {"debater": "organism:arithmetic-debater", "organism": "organism:arithmetic"}
    if wide:
        weights["debater"] = f"./{wide_model(folder, wide)}"
    path.write_text(SCENARIOS[name].format(engine=engine, episodes=args.episodes, **weights))
    resolved = resolve(Loaded.read(path))
    model = Noting(build_models(resolved, folder=folder)["tiny"])
    try:
        first = await episodes(resolved, model, folder)
        requests, pairs = list(model.asked), []
        for number in range(args.repeats):
            pair: dict[str, Any] = {}
            for arm in ("episodes", "flat") if number % 2 else ("flat", "episodes"):
                played = arm == "episodes"
                done = episodes(resolved, model, folder) if played else flat(model, requests)
                pair[arm] = await done
            pairs.append(pair)
    finally:
        await model.close()
    shares = [pair["episodes"]["rate"] / pair["flat"]["rate"] for pair in pairs]
    rates = {arm: statistics.median(p[arm]["rate"] for p in pairs) for arm in ("episodes", "flat")}
    return {
        "engine": engine,
        "protocol": f"{name}, wide {wide}" if wide else name,
        "calls": len(requests),
        "failed": first["failed"],
        **{arm: round(rate, 1) for arm, rate in rates.items()},
        "share": round(statistics.median(shares), 3),
        "shares": [round(min(shares), 3), round(max(shares), 3)],
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3))
    shares = [100 * row["share"] for row in rows]
    spread = [[100 * abs(row["share"] - row["shares"][i]) for row in rows] for i in (0, 1)]
    axis.barh(
        [f"{r['engine']}, {r['protocol']}" for r in rows], shares, xerr=spread, color="#4878a8"
    )
    axis.axvline(100 * TARGET, color="black", linestyle=":")
    axis.set_xlabel("tokens a second of episodes, % of the same calls flat")
    axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wide", type=int, help="the width of a third arm")
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        for engine in args.engines:
            wider = [("debate", args.wide)] if args.wide else []
            for name, wide in [*((name, 0) for name in SCENARIOS), *wider]:
                try:
                    rows.append(asyncio.run(measure(engine, name, wide, args, Path(folder))))
                except BadInput as error:
                    left_out.append(f"{engine}, {name}: {error}")
    facts = {name: version(name) for name in ("superalign", "torch", "transformers", "openai")}
    facts["python"] = platform.python_version()
    if args.plot and rows:
        plot(rows, args.plot)
    if args.json:
        print(json.dumps({"rows": rows, "left_out": left_out, "versions": facts}, indent=2))
        return
    print("| engine | protocol | calls | tokens/s, episodes | flat | share | from, to |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = (f"{share:.0%}" for share in row["shares"])
        rates = f"{row['episodes']:,.0f} | {row['flat']:,.0f} | {row['share']:.0%}"
        print(f"| {row['engine']} | {row['protocol']} | {row['calls']} | {rates} | {low}, {high} |")
    print("\n".join(left_out))
    print(", ".join(f"{name} {number}" for name, number in facts.items()))


if __name__ == "__main__":
    main()
