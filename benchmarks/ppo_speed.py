"""Our PPO step against TRL's PPOTrainer, on the arithmetic organism.

    python benchmarks/ppo_speed.py [--prompts sums seats] [--repeats 3] [--batches 6] [--json]

TRL removed PPO in 1.13, so the rival is 1.12.0, which pip puts into a temporary folder; torch and
transformers are the same for both. Each run is a process of its own, theirs and ours by turns. Both
draw 64 replies of at most 48 tokens to the same prompts with the same reward model, and make 4
updates of the whole batch at the same learning rate. One batch warms up and is not counted.

`sums` are the prompts of the learner's seat, all of about one length. `seats` are those of learner,
critic and reviser by turns, as one policy for all of them would see: short prompts with a long
reply, long ones with a short one. TRL stops drawing when the last reply has ended, and has the
pass size that is its best of 16, 32 and 64 rows.

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
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, EPOCHS, TOKENS, LR = 64, 4, 48, 3e-6
TRL, THEIR_PASS = "1.12.0", 32
KINDS = ("sums", "seats")


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def between(first: tuple[float, float], last: tuple[float, float]) -> dict[str, float]:
    return {"seconds": last[0] - first[0], "cpu": last[1] - first[1]}


def prompts(kind: str, n: int) -> list[Any]:
    """Sums to solve, or the prompts of the `seats` that answer, criticise and revise, by turns."""
    from superalign.scenarios.arithmetic import Arithmetic, mistake
    from superalign.store import Message

    rng, made = random.Random(0), []
    for i, task in enumerate(Arithmetic().tasks(n, 0)):
        text = task.question.text
        asked, tried = ("question", text), ("answer", mistake(text, rng))
        seats = [
            [asked, ("answer", "")],
            [asked, tried, ("critique", "")],
            [asked, tried, ("critique", str(rng.randint(1, 3))), ("answer", "")],
        ]
        messages = seats[i % len(seats)] if kind == "seats" else seats[0]
        made.append(tuple(Message(role=role, content=content) for role, content in messages))
    return made


def ours(base: Path, judge: Path, out: Path, batches: int, kind: str) -> dict[str, Any]:
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
        for prompt in prompts(kind, BATCH * batches)
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


def theirs(base: Path, judge: Path, out: Path, batches: int, kind: str) -> dict[str, Any]:
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
    written = [0]
    ends: list[tuple[float, float]] = []
    honest = ppo_trainer.truncate_response

    def counting(stop: int, padding: int, replies: Any) -> Any:
        """Replies up to their end tokens: TRL calls this once for every batch that it has drawn."""
        cut = honest(stop, padding, replies)
        written[-1] += int((cut != padding).sum())
        return cut

    ppo_trainer.truncate_response = counting

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append(clock())
            written.append(0)

    def scalar(folder: Path) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32
        )

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    ids = [{"input_ids": encode_prompt(tokenizer, p)} for p in prompts(kind, BATCH * batches)]
    args = PPOConfig(
        output_dir=str(out),
        learning_rate=LR,
        total_episodes=BATCH * (1 + batches),
        per_device_train_batch_size=THEIR_PASS,
        gradient_accumulation_steps=BATCH // THEIR_PASS,
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
    return {"tokens": sum(written[1:]), **between(ends[0], ends[-1]), "weights": weights}


def one(arm: str, args: Any) -> dict[str, Any]:
    """One run in this process."""
    import torch
    import transformers

    from superalign.scenarios.resolve import ORGANISMS

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = ORGANISMS / "arithmetic"
    if arm == "judge":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model.config.pad_token_id = 0
        model.save_pretrained(args.judge)
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(args.judge)
        return {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    learn = {"ours": ours, "theirs": theirs}[arm]
    with tempfile.TemporaryDirectory() as out:
        found = learn(base, args.judge, Path(out), args.batches, args.prompts[0])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "peak_mb": after / 1024, "loaded_mb": before / 1024, "versions": versions}


def run(arm: str, kind: str, judge: Path, site: Path, args: Any) -> dict[str, Any]:
    """The same in a process of its own, which sees the old TRL if it is theirs."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    if arm == "theirs":
        environment["PYTHONPATH"] = str(site)
    words = ["--run", arm, "--prompts", kind, "--judge", str(judge)]
    words += ["--batches", str(args.batches), "--threads", str(args.threads)]
    done = subprocess.run(
        [sys.executable, "-P", __file__, *words], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(one(args.run, args)))
        return
    tables: dict[str, Any] = {kind: {"ours": [], "theirs": []} for kind in args.prompts}
    with tempfile.TemporaryDirectory() as scratch:
        site, judge = Path(scratch, "site"), Path(scratch, "judge")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
        subprocess.run([*pip, f"trl=={TRL}"], check=True)
        run("judge", KINDS[0], judge, site, args)
        for _ in range(args.repeats):
            for kind, arms in tables.items():
                for arm, found in arms.items():
                    found.append(run(arm, kind, judge, site, args))
    if args.json:
        print(json.dumps({kind: {**arms, **ratios(arms)} for kind, arms in tables.items()}))
        return
    print(
        f"{args.threads} thread(s), {args.repeats} runs each by turns, {args.batches} batches each"
    )
    for kind, arms in tables.items():
        show(kind, arms)
    versions = next(iter(tables.values()))["ours"][0]["versions"]
    versions = {"python": platform.python_version(), **versions, "rival": TRL}
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))


def ratios(arms: dict[str, Any]) -> dict[str, list[float]]:
    """Our tokens per second as a multiple of theirs, run by run: least, median, most."""
    told = {}
    for name in ("cpu", "seconds"):
        ours, theirs = ([r["tokens"] / r[name] for r in arms[arm]] for arm in ("ours", "theirs"))
        each = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
        told[f"by_{name}"] = [each[0], statistics.median(each), each[-1]]
    return told


def show(kind: str, arms: dict[str, Any]) -> None:
    print(
        f"\n{kind:10} {'tokens/s':>9}  {'least to most':16} {'wall':>6} {'tokens':>7} "
        f"{'peak MB':>8} {'weights':>10}"
    )
    for arm, found in arms.items():
        speeds = [r["tokens"] / r["cpu"] for r in found]
        wall = statistics.median(r["tokens"] / r["seconds"] for r in found)
        peak = statistics.median(r["peak_mb"] for r in found)
        print(
            f"{ {'ours': 'ppo.py', 'theirs': f'TRL {TRL}'}[arm]:10} "
            f"{statistics.median(speeds):9.0f}  {min(speeds):6.0f} to {max(speeds):6.0f} "
            f"{wall:6.0f} {found[0]['tokens']:7.0f} {peak:8.0f} {found[0]['weights']:10,}"
        )
    told = ratios(arms)
    (low, middle, high), (slow, clock, fast) = told["by_cpu"], told["by_seconds"]
    print(f"ours is {middle:.2f} times theirs ({low:.2f} to {high:.2f}) per processor second,")
    print(f"        {clock:.2f} times theirs ({slow:.2f} to {fast:.2f}) by the clock")


if __name__ == "__main__":
    main()
