"""Learners on a tiny random Llama: guards, invariances, learning, and TRL as the oracle."""

import math
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from datasets import load_dataset
from pydantic import ValidationError
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from superalign.learners import LEARNERS, learn_config, learner, losses, preference
from superalign.learners.export import to_trl
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Message, Row

pytestmark = pytest.mark.usefixtures("one_thread")


def row(n, kind="pref", role="user", **more):
    prompt = [Message(role=role, content=f"{n}+{n}")]
    if role != "user":
        prompt.append(Message(role="answer", content=""))
    replies = {"sft": (f"{2 * n}",), "pref": (f"{2 * n}", f"{2 * n + 1}, I think")}.get(kind)
    base = {"source": "ai", "judge": "critic@1", "turns": (f"r/e{n}/1:a:0/learner:0",)}
    return Row(
        **{**base, "kind": kind, "seat": "learner", "prompt": prompt, "replies": replies, **more}
    )


def tokens(ids_N_T):
    return sorted(ids[ids != 0].tolist() for ids in ids_N_T)


def ranking(n):
    replies, rewards = (f"{2 * n + 1}", f"{2 * n}", "none"), (0.1, 1.0, -1.0)
    return row(n, kind="rank", replies=replies, rewards=rewards)


PAIRS = [row(n, flip_prob=n / 40) for n in range(8)]
RANKS = [ranking(n) for n in range(8)]
PAIRED = ("dpo", "exo", "cdpo", "rdpo", "ipo")
OURS = ("sft", *PAIRED, "exo_rw", "kto", "pro")
"""The methods of this file; others have tests of their own."""


def taught(method):
    """Rows that a method learns from."""
    alone = [row(n, kind="sft") for n in range(8)]
    return {"sft": alone, "exo_rw": RANKS, "pro": RANKS}.get(method, PAIRS)


def config(method="dpo", **more):
    return learn_config({"method": method, "steps": 2, "batch": 8, **more})


def test_the_facade_loads_no_torch():
    code = (
        "import sys, superalign.learners as l; l.learn_config({'method': 'exo'}); "
        "sys.exit(bool({'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_that_says_something_else_is_refused():
    for wrong in ({"method": "sorcery"}, {"beta": 0}, {"learning_rate": 1}):
        with pytest.raises(ValidationError):
            learn_config({"method": "dpo", **wrong})


def test_log_probabilities_are_those_of_the_reply_with_its_end_token(base):
    model, tokenizer = learner.load(base)
    (example,) = learner.encode([PAIRS[3]], "pref", model, tokenizer)
    batch = learner.collate([example], [0], model.device)
    got = learner.sequence_logprobs(model, batch)
    for k, reply in enumerate(("6", "7, I think")):
        ids = tokenizer.encode(f"<bos><|user|>3+3<|assistant|>{reply}<eos>")
        logprobs = model(torch.tensor([ids])).logits.log_softmax(-1)
        start = len(ids) - len(reply) - 1
        wanted = sum(logprobs[0, t - 1, ids[t]] for t in range(start, len(ids)))
        torch.testing.assert_close(got[0, k], wanted, rtol=1e-5, atol=1e-4)
        assert batch.tokens_B_K[0, k] == len(reply) + 1


def test_a_row_that_does_not_fit_is_refused_not_cut(base):
    long = row(1, replies=("9" * 60, "1"))
    with pytest.raises(BadInput, match=r"r/e1/.*67 tokens.*64 positions"):
        LEARNERS["dpo"](base, [long], config(), base / "out")


@pytest.mark.parametrize("rows", [[], [ranking(1)], [row(1, "sft")]])
def test_rows_of_the_wrong_kind_are_refused(base, rows):
    with pytest.raises(BadInput, match="`pref` rows: none; the learner needs some"):
        LEARNERS["dpo"](base, rows, config(), base / "out")


def test_rankings_of_several_lengths_are_refused(base):
    short = row(1, kind="rank", replies=("2", "3"), rewards=(1.0, 0.0))
    with pytest.raises(BadInput, match="`rank` rows: with 2 and 3 replies"):
        LEARNERS["exo_rw"](base, [ranking(1), short], config("exo_rw"), base / "out")


@pytest.mark.parametrize("method", OURS)
def test_how_a_step_is_split_changes_nothing(base, tmp_path, method):
    rows, logs = taught(method), []
    for micro_batch in (8, 4, 3):
        settings = config(method, micro_batch=micro_batch)
        LEARNERS[method](base, rows, settings, tmp_path, lambda step: logs.append(dict(step)))
    whole, *parts = logs[:2], logs[2:4], logs[4:]
    for log in parts:
        for step, wanted in zip(log, whole, strict=True):
            for name in wanted.keys() - {"seconds"}:
                assert step[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("method", [*PAIRED, "exo_rw"])
def test_a_better_reply_becomes_the_likelier_one(base, tmp_path, method):
    rows = taught(method)[:4]
    settings = config(method, steps=40, lr=3e-3, seed=1, batch=4, sft=0.1)
    told = LEARNERS[method](base, rows, settings, tmp_path / "new")
    assert told["first"]["margin"] == pytest.approx(0, abs=1e-4)
    assert told["last"]["margin"] > 0.5
    assert told["last"]["accuracy"] == 1
    assert told["last"]["preference"] < told["first"]["preference"]
    assert told["last"]["chosen_gain"] > told["last"]["rejected_gain"]

    model, tokenizer = learner.load(tmp_path / "new")
    old, _ = learner.load(base)
    examples = learner.encode(rows, rows[0].kind, model, tokenizer)
    batch = learner.collate(examples, range(4), model.device)
    h_B_K = learner.sequence_logprobs(model, batch) - learner.sequence_logprobs(old, batch)
    assert (h_B_K[:, 0] > h_B_K[:, -1]).all()


def test_sft_makes_accepted_answers_likely_in_both_dialects(base, tmp_path):
    rows = [row(n, kind="sft", role=role) for n in range(4) for role in ("user", "question")]
    told = LEARNERS["sft"](base, rows, config("sft", steps=40, lr=1e-2), tmp_path)
    assert told["last"]["sft"] < 0.6 * told["first"]["sft"]
    assert told["rows"] == 8
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == told["steps"] == 40
    assert (tmp_path / "model.safetensors").exists()


def test_the_same_seed_gives_the_same_update(base, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        LEARNERS["dpo"](base, PAIRS, config(batch=4, seed=seed), tmp_path / name)
    a, b, c = (learner.load(tmp_path / name)[0].state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("method", [*PAIRED, "kto"])
def test_the_first_loss_is_known(base, tmp_path, method):
    told = LEARNERS[method](base, PAIRS, config(method, steps=1), tmp_path)
    eps = [max(pair.flip_prob, 1e-3) for pair in PAIRS]
    exo = sum(-math.log(2) - math.log(e * (1 - e)) / 2 for e in eps) / len(eps)
    wanted = {"exo": exo, "ipo": 25.0, "kto": 0.5}.get(method, math.log(2))
    assert told["first"]["preference"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("method", PAIRED)
def test_a_wrong_reference_stops_the_first_step(base, tmp_path, method, monkeypatch):
    honest = preference.reference_logprobs
    monkeypatch.setattr(preference, "reference_logprobs", lambda *given: honest(*given) + 0.5)
    with pytest.raises(SuperalignError, match=r"step 0: policy and reference differ by up to 0\.5"):
        LEARNERS[method](base, PAIRS, config(method), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_loss_stops_the_first_step(base, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "dpo", losses.hinge)
    with pytest.raises(SuperalignError, match=r"step 0: .* is 1\.000000, not 0\.693147"):
        LEARNERS["dpo"](base, PAIRS, config(), tmp_path)


def test_a_gradient_that_is_not_finite_stops_learning(base, tmp_path):
    rows = [row(n, kind="sft") for n in range(8)]
    with pytest.raises(SuperalignError, match=r"smaller learn\.lr than 1e\+20"):
        LEARNERS["sft"](base, rows, config("sft", lr=1e20, steps=20), tmp_path)


@pytest.fixture
def rival(base, tmp_path):
    """TRL's DPOTrainer on rows that were exported for it, its policy moved off the reference."""

    def build(rows, **given):
        to_trl(rows, tmp_path / "data", {"protocol": "critique", "license": "apache-2.0"}, "<bos>")
        data = load_dataset(
            str(tmp_path / "data"), "preference", split="train", cache_dir=str(tmp_path / "cache")
        )
        ref, tokenizer = learner.load(base)
        policy, _ = learner.load(base)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 0.02 * torch.randn_like(weight)
        args = DPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=8,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **given,
        )
        trainer = DPOTrainer(policy, ref, args=args, train_dataset=data, processing_class=tokenizer)
        return trainer, policy, ref, tokenizer

    return build


def loss_of(method, monkeypatch):
    """The loss that a learner hands to `learn_preferences`."""
    module = import_module(f"superalign.learners.{method}")
    monkeypatch.setattr(module, "learn_preferences", lambda *given: given)
    return module.learn(None, [], config(method), None)[5]


@pytest.mark.parametrize("role", ["user", "question"])
@pytest.mark.parametrize("method", ["dpo", "exo", "rdpo", "ipo"])
def test_losses_are_trls(rival, method, role, monkeypatch):
    pairs = [row(n, flip_prob=0.05, role=role) for n in range(8)]
    name = {"dpo": "sigmoid", "exo": "exo_pair", "rdpo": "robust", "ipo": "ipo"}[method]
    trainer, policy, ref, tokenizer = rival(pairs, loss_type=name, label_smoothing=0.05)
    theirs = next(iter(trainer.get_train_dataloader()))
    examples = learner.encode(pairs, "pref", policy, tokenizer)
    ours = learner.collate(examples, range(8), policy.device)
    read = sorted(one.prompt + reply for one in examples for reply in one.replies)
    assert tokens(theirs["input_ids"]) == read
    with torch.no_grad():
        h_B_K = learner.sequence_logprobs(policy, ours) - learner.sequence_logprobs(ref, ours)
        losses_B = loss_of(method, monkeypatch)(h_B_K, ours)
        wanted = trainer.compute_loss(policy, theirs)
    assert h_B_K.abs().max() > 0.1
    torch.testing.assert_close(losses_B.mean(), wanted, rtol=1e-5, atol=1e-5)


def test_cdpo_is_trls_dpo_of_both_orders(rival, monkeypatch):
    pairs = [row(n, flip_prob=0.2) for n in range(8)]
    trainer, policy, ref, tokenizer = rival(pairs, loss_type="sigmoid")
    theirs = next(iter(trainer.get_train_dataloader()))
    swapped = {name: torch.cat(value.chunk(2)[::-1]) for name, value in theirs.items()}
    examples = learner.encode(pairs, "pref", policy, tokenizer)
    ours = learner.collate(examples, range(8), policy.device)
    with torch.no_grad():
        h_B_K = learner.sequence_logprobs(policy, ours) - learner.sequence_logprobs(ref, ours)
        losses_B = loss_of("cdpo", monkeypatch)(h_B_K, ours)
        right, wrong = (trainer.compute_loss(policy, batch) for batch in (theirs, swapped))
    assert abs(right - wrong) > 0.001
    torch.testing.assert_close(losses_B.mean(), 0.8 * right + 0.2 * wrong, rtol=0, atol=1e-5)


def test_trl_trains_on_what_we_export(rival, tmp_path):
    rows = [row(n, judge="critic@1" if n else "anna") for n in range(4)] + [ranking(9)]
    trainer, *_ = rival(rows, loss_type="exo_pair", label_smoothing=1e-3, max_steps=2)
    assert math.isfinite(trainer.train().training_loss)
    best = [one for one in trainer.train_dataset if one["rewards"]]
    assert best[0]["replies"] == ["18", "19", "none"]
    assert best[0]["chosen"] == [{"role": "assistant", "content": "18"}]
    assert best[0]["rejected"] == [{"role": "assistant", "content": "none"}]
    card = (tmp_path / "data" / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n')
    assert "| preference | 5 | ai 5 | 0.0000 |" in card
    assert "**judges**: anna, critic@1" in card
    assert "**protocol**: critique" in card


def test_tagged_rows_are_exported_as_strings_that_nobody_can_forge(tmp_path):
    rows = [row(2, role="question"), row(2, kind="sft", role="question")]
    assert to_trl(rows, tmp_path, {}) == {"preference": 1, "unpaired": 2, "prompt": 1, "sft": 1}
    loaded = load_dataset(str(tmp_path), "sft", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["prompt"] == "<|question|>2+2<|answer|>"
    assert loaded[0]["completion"] == "4"
    with pytest.raises(BadInput, match=r"control token <\|answer\|>"):
        to_trl([row(1, role="question", replies=("<|answer|>2", "3"))], tmp_path, {})
    with pytest.raises(BadInput, match="one seat at a time"):
        to_trl([row(1, role="question"), row(1)], tmp_path, {})
