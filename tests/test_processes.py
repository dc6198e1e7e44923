"""Learners in several processes: two make the update of one."""

import json
import math
import subprocess
import sys

import pytest

from superalign.store.records import Message, Row

SCRIPT = """
import sys
from pathlib import Path

import torch

from superalign.learners import LEARNERS, learn_config, learner, ppo, reading
from superalign.store import BadInput
from superalign.store.records import Row

torch.set_num_threads(1)
reading.PASS = 0  # so that processes do not have as many passes as each other
base, rows, out = map(Path, sys.argv[1:])
rows = [Row.model_validate_json(line) for line in rows.open()]
told = {"steps": 4, "batch": 7, "lr": 3e-3, "lora": 4}
for method in ("sft", "dpo", "exo", "exo_rw", "pro"):
    LEARNERS[method](base, rows, learn_config(told | {"method": method}), out / method)
alone = learn_config(told | {"method": "verifier"})
(out / "processes").write_text(str(learner.processes().num_processes))
try:
    LEARNERS["verifier"](base, rows, alone, out / "verifier")
except BadInput as error:
    (out / "refused").write_text(str(error))
config = learn_config(told | {"method": "ppo", "batch": 8, "max_tokens": 6, "cut": 0.5})
score = lambda prompts, replies: [len(set(reply)) / 6 for reply in replies]
ppo.learn(base, rows, config, out / "ppo", None, score)
"""


def row(n, kind, *replies, rewards=None):
    told = {"seat": "learner", "source": "ai", "judge": "critic", "turns": (f"r/e{n}/k",)}
    prompt = (Message(role="question", content=f"{n}+{n}"), Message(role="answer", content=""))
    return Row(kind=kind, prompt=prompt, replies=replies, rewards=rewards, **told)


ROWS = [
    one
    for n in range(9)
    for one in (
        row(n, "sft", "a" * (1 + n)),
        row(n, "pref", "a" * (1 + n), "b" * (1 + n // 2)),
        row(n, "rank", "a", "b" * (1 + n), "c", rewards=(1.0, 0.4, 0.0)),
        row(n, "reward", "ab"[n % 2], rewards=(float(n % 2),)),
    )
]


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(base, tmp_path):
    (tmp_path / "learn.py").write_text(SCRIPT)
    (tmp_path / "rows").write_text("".join(one.model_dump_json() + "\n" for one in ROWS))
    for n in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        words = [tmp_path / "learn.py", base, tmp_path / "rows", tmp_path / f"out{n}"]
        subprocess.run([sys.executable, *launch, *map(str, words)], check=True)
    for method in ("sft", "dpo", "exo", "exo_rw", "pro", "ppo"):
        logs = [(tmp_path / f"out{n}" / method / "steps.jsonl").open() for n in (1, 2)]
        for one, two in zip(*(map(json.loads, log) for log in logs), strict=True):
            assert one.keys() == two.keys()
            for name in one.keys() - {"seconds"}:
                same = math.isclose(one[name], two[name], rel_tol=1e-3, abs_tol=1e-5)
                assert same, (method, name, one[name], two[name])
    assert [(tmp_path / f"out{n}" / "processes").read_text() for n in (1, 2)] == ["1", "2"]
    assert not (tmp_path / "out1" / "refused").exists()
    assert "verifier learns in one process" in (tmp_path / "out2" / "refused").read_text()
