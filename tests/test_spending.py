"""Tokens that a method will read, against those that its model is in fact given."""

import json
from typing import Any

import pytest
import torch

from superalign.learners import LEARNERS, kto, learn_config, learner, preference, pro, spin
from superalign.learners import weak_to_strong as w2s
from superalign.learners.spending import spent
from superalign.store.errors import BadInput
from superalign.store.records import Message, Row

WORDS = "one two three four five six seven eight nine ten".split()


def row(kind, n, replies, **more):
    prompt = (Message(role="user", content=f"{n} " + "+".join(WORDS[n % 3 : n % 7])),)
    told = {"seat": "l", "source": "ai", "judge": "j", "turns": (f"r/e{n}/{kind}",)}
    return Row(kind=kind, prompt=prompt, replies=tuple(replies), **{**told, **more})


RANKED = [row("rank", n, WORDS[n : n + 4], rewards=(4.0, 3.0, 2.0, 1.0)) for n in range(6)]
PAIRS = [row("pref", n, WORDS[n : n + 2]) for n in range(7)]
COPIES = [row("sft", n, WORDS[n : n + 1]) for n in range(5)]
SCORED = [row("reward", n, [WORDS[n]], rewards=(float(n % 2),)) for n in range(9)]
LABELLED = [one.model_copy(update={"rewards": (0.4, 0.3, 0.2, 0.1)}) for one in RANKED]
SPOKEN = [row("sft", n, ["one"]) for n in range(9)]


def config(method, **more) -> Any:
    return learn_config({"method": method, "steps": 3, "batch": 4, "micro_batch": 3, **more})


@pytest.fixture
def given(monkeypatch):
    """Tokens of the sequences that models are given while they learn."""
    seen = [0]

    def watch(module):
        read = module.sequence_logprobs

        def counted(model, batch):
            if torch.is_grad_enabled():
                for example in batch.examples:
                    seen[0] += sum(len(example.prompt) + len(r) for r in example.replies)
            return read(model, batch)

        monkeypatch.setattr(module, "sequence_logprobs", counted)

    for module in (learner, preference, kto, pro, w2s):
        watch(module)
    return seen


ARMS = [
    ("sft", COPIES, {}),
    ("star", COPIES, {}),
    ("dpo", PAIRS, {}),
    ("dpo", PAIRS + COPIES, {}),
    ("dpo", PAIRS + COPIES, {"sft": 0.0}),
    ("ipo", PAIRS + COPIES, {}),
    ("kto", SCORED, {}),
    ("kto", PAIRS, {"sft": 0.0}),
    ("kto", PAIRS + COPIES, {}),
    ("exo_rw", RANKED + COPIES, {}),
    ("pro", RANKED, {}),
    ("rso", RANKED + COPIES, {"keep": 3}),
    ("self_rewarding", RANKED + COPIES, {}),
    ("weak_to_strong", LABELLED, {"confidence": 0}),
]


@pytest.mark.parametrize(
    ("method", "rows", "more"), ARMS, ids=[f"{i}-{arm[0]}" for i, arm in enumerate(ARMS)]
)
def test_what_is_told_is_what_is_read(method, rows, more, base, tmp_path, given):
    told = config(method, **more)
    counts = spent(told, rows, base)
    wanted = [next(counts) for _ in range(told.steps)]
    given[0] = 0
    LEARNERS[method](base, rows, told, tmp_path)
    assert given[0] == wanted[-1] > wanted[0] > 0


def test_spin_reads_its_own_samples_too(base, tmp_path, given):
    speaker, told = tmp_path / "speaker", config("spin", max_tokens=8)
    LEARNERS["sft"](base, SPOKEN, config("sft", steps=20, lr=1e-2), speaker)
    gold = [one.model_copy(update={"replies": ("two",)}) for one in SPOKEN]
    assert spin.oppose(speaker, gold, told).pairs
    counts = spent(told, gold, speaker)
    wanted = [next(counts) for _ in range(3)]
    given[0] = 0
    LEARNERS["spin"](speaker, gold, told, tmp_path / "out")
    assert given[0] == wanted[-1]


def test_ppo_reads_stored_replies_once_an_epoch(base, tmp_path):
    prompt = (Message(role="user", content="count"),)
    scored = [one.model_copy(update={"prompt": prompt}) for one in SCORED]
    told, tokenizer = config("ppo", epochs=2), learner.load(base)[1]
    counts = spent(told, scored, base)
    wanted = [next(counts) for _ in range(told.steps)]
    LEARNERS["ppo"](base, scored, told, tmp_path)
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    asked = len(learner.encode_prompt(tokenizer, prompt))
    read = [told.batch * (asked + step["length"]) for step in steps]
    assert wanted == pytest.approx([sum(read[: i + 1]) for i in range(3)])
    assert read[0] == read[1] != read[2]


def test_another_seed_deals_other_rows(base):
    def first(seed):
        return next(spent(config("sft", seed=seed, batch=2), COPIES, base))

    assert len({first(seed) for seed in range(8)}) > 1


def test_rows_that_say_nothing_are_told_of(base):
    level = [one.model_copy(update={"rewards": (1.0,) * 4}) for one in RANKED]
    with pytest.raises(BadInput, match="self_rewarding finds nothing to learn from"):
        next(spent(config("self_rewarding"), level, base))
