"""Our PPO step against TRL's PPOTrainer, on the arithmetic organism.

    python benchmarks/ppo_speed.py [--repeats 3] [--batches 6] [--threads 1] [--json]

TRL removed PPO in 1.13, so the rival is 1.12.0, which pip puts into a temporary folder; torch and
transformers are the same for both. Each run is a process of its own, theirs and ours by turns. Both
draw 64 replies of at most 48 tokens to the same prompts with the same reward model, and make 4
updates of the whole batch at the same learning rate. One batch warms up and is not counted.

Tokens are those of replies with their end tokens; seconds those of whole steps: drawing, scoring,
reading and updating. They are of processor time, which other programs disturb less; `wall` has
tokens by the clock. Memory is the peak of the process. Not the same in both: TRL has a
value network beside the policy, we a value head on it; `weights` counts what learns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, EPOCHS, TOKENS, LR = 64, 4, 48, 3e-6
TRL = "1.12.0"


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def between(first: tuple[float, float], last: tuple[float, float]) -> dict[str, float]:
    return {"seconds": last[0] - first[0], "cpu": last[1] - first[1]}


def prompts(n: int) -> list[Any]:
    from superalign.scenarios.arithmetic import Arithmetic
    from superalign.store import Message

    return [
        (Message(role="question", content=task.question.text), Message(role="answer", content=""))
        for task in Arithmetic().tasks(n, 0)
    ]


def ours(base: Path, judge: Path, out: Path, batches: int) -> dict[str, Any]:
    from superalign.learners import ppo, scoring
    from superalign.learners.config import PpoConfig
    from superalign.store import Row

    rows = [
        Row(
            kind="reward",
            seat="learner",
            prompt=prompt,
            replies=("0",),
            rewards=(0.0,),
            source="ai",
            judge="",
            turns=(),
        )
        for prompt in prompts(BATCH * batches)
    ]
    config = PpoConfig(
        steps=EPOCHS * (1 + batches),
        epochs=EPOCHS,
        batch=BATCH,
        micro_batch=BATCH,
        lr=LR,
        max_tokens=TOKENS,
        cut=0.0,
    )
    log: list[Any] = []
    ticks: list[tuple[float, float]] = []

    def progress(step: Any) -> None:
        log.append(step)
        ticks.append(clock())

    told = ppo.learn(base, rows, config, out, progress, scoring.load_scorer(judge))
    counted = log[EPOCHS:]
    tokens = sum(step["length"] * BATCH for step in counted[::EPOCHS])
    weights = sum(f.stat().st_size for f in out.glob("*.safetensors")) // 4
    assert told["steps"] == EPOCHS * (1 + batches)
    return {"tokens": tokens, **between(ticks[EPOCHS - 1], ticks[-1]), "weights": weights}


def theirs(base: Path, judge: Path, out: Path, batches: int) -> dict[str, Any]:
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    import trl
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )

    assert trl.__version__ == TRL, trl.__version__
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # pyright: ignore

    from superalign.agents.tokens import encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    lengths: list[int] = []
    ends: list[tuple[float, float]] = []
    honest = ppo_trainer.first_true_indices

    def counting(pads: Any, **more: Any) -> Any:
        found = honest(pads, **more)
        lengths.append(int(found.sum()))
        return found

    ppo_trainer.first_true_indices = counting

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append(clock())

    def scalar(folder: Path) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32
        )

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    ids = [{"input_ids": encode_prompt(tokenizer, p)} for p in prompts(BATCH * batches)]
    args = PPOConfig(
        output_dir=str(out),
        learning_rate=LR,
        total_episodes=BATCH * (1 + batches),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        local_rollout_forward_batch_size=BATCH,
        response_length=TOKENS,
        temperature=1.0,
        stop_token="eos",
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    model, value = causal(), scalar(judge)
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=model,
        ref_model=causal(),
        reward_model=scalar(judge),
        value_model=value,
        train_dataset=Dataset.from_list(ids),
        eval_dataset=Dataset.from_list(ids[:BATCH]),
        callbacks=[Clock()],
    )
    trainer.train()
    weights = sum(w.numel() for one in (model, value) for w in one.parameters())
    return {"tokens": sum(lengths[1:]), **between(ends[0], ends[-1]), "weights": weights}


def one(arm: str, judge: Path, batches: int, threads: int) -> dict[str, Any]:
    """One run in this process."""
    import torch
    import transformers

    from superalign.scenarios.resolve import ORGANISMS

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = ORGANISMS / "arithmetic"
    if arm == "judge":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model.config.pad_token_id = 0
        model.save_pretrained(judge)
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(judge)
        return {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as out:
        found = {"ours": ours, "theirs": theirs}[arm](base, judge, Path(out), batches)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "peak_mb": after / 1024, "loaded_mb": before / 1024, "versions": versions}


def run(arm: str, judge: Path, site: Path, args: Any) -> dict[str, Any]:
    """The same in a process of its own, which sees the old TRL if it is theirs."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    if arm == "theirs":
        environment["PYTHONPATH"] = str(site)
    words = ["--run", arm, "--judge", str(judge), "--batches", str(args.batches)]
    words += ["--threads", str(args.threads)]
    done = subprocess.run(
        [sys.executable, "-P", __file__, *words], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(one(args.run, args.judge, args.batches, args.threads)))
        return
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as scratch:
        site, judge = Path(scratch, "site"), Path(scratch, "judge")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
        subprocess.run([*pip, f"trl=={TRL}"], check=True)
        run("judge", judge, site, args)
        for _ in range(args.repeats):
            for arm, found in runs.items():
                found.append(run(arm, judge, site, args))
    show(runs, args)


def show(runs: dict[str, list[dict[str, Any]]], args: Any) -> None:
    names = {"ours": "ppo.py", "theirs": f"TRL {TRL}"}
    speeds = {arm: [r["tokens"] / r["cpu"] for r in found] for arm, found in runs.items()}
    ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["theirs"], strict=True)]
    if args.json:
        print(json.dumps({"runs": runs, "ratio": statistics.median(ratios)}, indent=2))
        return
    print(
        f"{args.threads} thread(s), {args.repeats} runs each by turns, {args.batches} batches each"
    )
    print(
        f"{'':10} {'tokens/s':>9}  {'least to most':16} {'wall':>6} {'peak MB':>8} {'weights':>10}"
    )
    for arm, found in runs.items():
        low, high = min(speeds[arm]), max(speeds[arm])
        wall = statistics.median(r["tokens"] / r["seconds"] for r in found)
        peak = statistics.median(r["peak_mb"] for r in found)
        print(
            f"{names[arm]:10} {statistics.median(speeds[arm]):9.0f}  {low:6.0f} to {high:6.0f} "
            f"{wall:6.0f} {peak:8.0f} {found[0]['weights']:10,}"
        )
    low, high = min(ratios), max(ratios)
    print(f"ours is {statistics.median(ratios):.2f} times theirs ({low:.2f} to {high:.2f})")
    versions = {"python": platform.python_version(), **runs["ours"][0]["versions"], "rival": TRL}
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
