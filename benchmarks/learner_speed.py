"""How fast pairs are learnt from: DPO and EXO here against TRL's stock DPOTrainer.

    python benchmarks/learner_speed.py [--pairs 512] [--repeats 2] [--threads 1 2] [--json]

The pairs are those of three seats of the arithmetic organism (answers, revisions of them, verdicts
on them), so that their lengths differ as lengths do. All arms see each pair once, 64 in a step,
with the same plain loss, on the organism's weights. Each runs in a process of its own, the arms in
turn. TRL gets what suits it: no gradient checkpointing, float32, a fused AdamW, and micro-batches
of 8, its default, or of 64.

tokens/s is of steps after the first, which warms up; tokens are those of prompts and both replies,
no padding. Per core: the same over processor time, which others' work on the machine hardly moves.
Seconds are those of the whole update, with the reference's log-probabilities where they are kept
and, here, loading and saving; without imports. Peak is the process's resident memory, learning is
how far that rose above what it was once all was imported and loaded.

Times: as a multiple of TRL's faster stock arm. Target: DPO and EXO at least 1.5, per core and by
the clock.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superalign.store.records import Message, Row

BATCH = 64
OURS = {
    "dpo-64": "superalign dpo, 64 at once",
    "exo-64": "superalign exo, 64 at once",
    "dpo-8": "superalign dpo, 8 at once",
}
STOCK = {"trl-8": "TRL, 8 at once", "trl-64": "TRL, 64 at once"}
KEPT = {
    "trl-8-kept": "TRL, 8 at once, reference kept",
    "trl-64-kept": "TRL, 64 at once, reference kept",
}
ARMS = {**OURS, **STOCK, **KEPT}

Clock = list[tuple[float, float]]
"""Wall-clock and processor time at the end of every step."""


def pairs(n: int) -> list[Row]:
    """Right against wrong: answers, revisions of wrong ones, and verdicts on them."""
    from superalign.scenarios import arithmetic

    rng, rows = random.Random(0), []
    while len(rows) < n:
        text = arithmetic.draw(rng.choice(arithmetic.CELLS), rng)
        right, wrong = ";".join(arithmetic.work(text)), arithmetic.mistake(text, rng)
        if right == wrong:
            continue
        fault = str(1 + rng.randrange(3))
        told = [("question", text)]
        asked, good, bad = rng.choice(
            (
                ([*told, ("answer", "")], right, wrong),
                ([*told, ("answer", wrong), ("critique", fault), ("answer", "")], right, wrong),
                ([*told, ("answer", wrong), ("critique", "")], fault, "ok"),
            )
        )
        rows.append(
            Row(
                kind="pref",
                seat="learner",
                prompt=tuple(Message(role=role, content=said) for role, said in asked),
                replies=(good, bad),
                source="tool",
                judge="world",
                turns=(f"r/e{len(rows)}/k",),
            )
        )
    return rows


def ours(arm: str, rows: list[Row], folder: Path) -> tuple[Callable[[], Any], Clock]:
    from superalign.learners import LEARNERS, learn_config
    from superalign.learners.learner import load
    from superalign.scenarios.resolve import ORGANISMS

    base, ends = ORGANISMS / "arithmetic", Clock()
    load(base)
    method, at_once = arm.split("-")
    told = {"method": method, "steps": len(rows) // BATCH, "batch": BATCH, "lr": 1e-5, "sft": 0}
    config = learn_config({**told, "micro_batch": int(at_once)})
    return lambda: LEARNERS[method](base, rows, config, folder, lambda _: mark(ends)), ends


def trl(arm: str, rows: list[Row], folder: Path) -> tuple[Callable[[], Any], Clock]:
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from superalign.learners.export import to_trl
    from superalign.learners.learner import load
    from superalign.scenarios.resolve import ORGANISMS

    at_once, ends = int(arm.split("-")[1]), Clock()
    to_trl(rows, folder / "data", {}, "<bos>")
    data: Any = load_dataset(
        str(folder / "data"), "preference", split="train", cache_dir=str(folder / "cache")
    )
    (policy, tokenizer), (ref, _) = load(ORGANISMS / "arithmetic"), load(ORGANISMS / "arithmetic")

    class Ends(TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            mark(ends)

    args = DPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=BATCH // at_once,
        precompute_ref_log_probs=arm.endswith("kept"),
        precompute_ref_batch_size=at_once,
        num_train_epochs=1,
        learning_rate=1e-5,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )

    def run() -> None:
        given = {"train_dataset": data, "processing_class": tokenizer, "callbacks": [Ends()]}
        DPOTrainer(policy, ref, args=args, **given).train()

    return run, ends


def mark(ends: Clock) -> None:
    ends.append((time.perf_counter(), time.process_time()))


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(arm: str, n: int, threads: int) -> dict[str, float]:
    """One arm, in this process."""
    import torch

    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    rows = pairs(n)
    with tempfile.TemporaryDirectory() as folder:
        run, ends = (ours if arm in OURS else trl)(arm, rows, Path(folder))
        loaded, began = peak(), time.perf_counter()
        run()
        seconds = time.perf_counter() - began
    wall, busy = (end - start for start, end in zip(ends[0], ends[-1], strict=True))
    per_step = sum(lengths(rows)) / n * BATCH
    return {
        "tokens_per_s": per_step * (len(ends) - 1) / wall,
        "tokens_per_core_s": per_step * (len(ends) - 1) / busy,
        "seconds": seconds,
        "peak_mib": peak(),
        "learning_mib": peak() - loaded,
    }


def lengths(rows: list[Row]) -> list[int]:
    """Tokens of a pair's two sequences: one a character, one a tag, and both ends."""
    prompts = [1 + sum(1 + len(message.content) for message in row.prompt) for row in rows]
    return [
        2 * prompt + sum(len(reply) + 1 for reply in row.replies)
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def measure(n: int, repeats: int, threads: int) -> list[dict[str, Any]]:
    """All arms in turn, every one in a process of its own; medians."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(repeats):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--pairs", str(n)]
            ended = subprocess.run(
                [*command, "--threads", str(threads)],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                capture_output=True,
                text=True,
            )
            if ended.returncode:
                sys.exit(ended.stderr)
            found[arm].append(json.loads(ended.stdout.splitlines()[-1]))
    rows = [
        {
            "arm": arm,
            "threads": threads,
            **{name: statistics.median(one[name] for one in runs) for name in runs[0]},
        }
        for arm, runs in found.items()
    ]
    for name in ("tokens_per_s", "tokens_per_core_s"):
        best = max(row[name] for row in rows if row["arm"] in STOCK)
        for row in rows:
            row[f"{name}_share"] = row[name] / best
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--arm", choices=ARMS, help="this one alone, in this process")
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(one(args.arm, args.pairs, args.threads[0])))
        return
    rows = [row for t in args.threads for row in measure(args.pairs, args.repeats, t)]
    names = ("superalign", "torch", "transformers", "trl")
    versions = {"python": platform.python_version()} | {name: version(name) for name in names}
    if args.json:
        print(json.dumps({"versions": versions, "rows": rows}, indent=2))
    else:
        show(rows, args.pairs)
        print(", ".join(f"{name} {number}" for name, number in versions.items()))
    met = all(
        min(row["tokens_per_s_share"], row["tokens_per_core_s_share"]) >= 1.5
        for row in rows
        if row["arm"] in OURS
    )
    sys.exit(0 if met else 1)


def show(rows: list[dict[str, Any]], n: int) -> None:
    found = lengths(pairs(n))
    mean = statistics.mean(found)
    print(f"{n} pairs of {min(found)} to {max(found)} tokens, {mean:.0f} on average")
    print(f"{'':33}threads  tokens/s  times  per core  times  seconds  peak MiB  learning")
    for row in rows:
        print(
            f"{ARMS[row['arm']]:33}{row['threads']:7}{row['tokens_per_s']:10.0f}"
            f"{row['tokens_per_s_share']:7.2f}{row['tokens_per_core_s']:10.0f}"
            f"{row['tokens_per_core_s_share']:7.2f}{row['seconds']:9.1f}"
            f"{row['peak_mib']:10.0f}{row['learning_mib']:10.0f}"
        )


if __name__ == "__main__":
    main()
