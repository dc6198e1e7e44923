"""Adapters over one base: many versions share a model, and one learns without touching it."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from superalign.agents import plain
from superalign.agents.model import Ask, Request, Sampling, View
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import encode_prompt
from superalign.agents.transformers_engine import TransformersModel
from superalign.agents.weights import CONFIG, WEIGHTS, base_of
from superalign.learners import LEARNERS, grpo, learn_config, ppo, rloo
from superalign.learners.learner import load
from superalign.store import BadInput, Message, Question, Row


def asked(question):
    return (Message(role="question", content=question), Message(role="answer", content=""))


ASKED = asked("2+2?")


def row(kind, *replies, rewards=None, prompt=ASKED):
    return Row(
        kind=kind,
        seat="learner",
        prompt=prompt,
        replies=replies,
        rewards=rewards,
        source="ai",
        judge="critic",
        turns=(),
    )


ROWS = [
    row("sft", "4"),
    row("sft", "four"),
    row("pref", "4", "5"),
    row("pref", "four", "five", prompt=asked("3+1?")),
    row("rank", "4", "5", "6", rewards=(1.0, 0.5, 0.0)),
    row("reward", "4", rewards=(1.0,)),
    row("reward", "5", rewards=(0.0,), prompt=asked("1+2?")),
]


def taught(base: Path, out: Path, method: str = "sft", **more) -> Path:
    told = {"method": method, "lora": 4, "lr": 0.02, "steps": 3, "batch": 4, **more}
    LEARNERS[method](base, ROWS, learn_config(told), out)
    return out


def merged(adapter: Path, out: Path) -> Path:
    """The same version as a whole model: W + scale * B A, by hand."""
    model, tokenizer = load(base_of(adapter))
    told, found = json.loads((adapter / CONFIG).read_text()), load_file(adapter / WEIGHTS)
    for name, weights in model.named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_%s.weight"
        if key % "A" in found:
            scale = told["lora_alpha"] / told["r"]
            weights.data += scale * found[key % "B"] @ found[key % "A"]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


async def said(engine, versions, seeds):
    def request(version, seed):
        sampling = Sampling(temperature=1.0, max_tokens=12)
        view = View(seat="learner", question=Question(), private=None, ask=Ask(kind="answer"))
        return Request(ASKED, sampling, seed, version, view, episode="", nth=0)

    calls = [engine.generate(request(v, seed)) for seed in seeds for v in versions]
    return [(done.token_ids, done.logprobs) for done in await asyncio.gather(*calls)]


def drawn(folder, n=4):
    model, tokenizer = load(folder)
    ids = encode_prompt(tokenizer, ASKED)
    policy = policy_of("any", model, tokenizer)
    return draw(policy, [ids] * n, range(n), Sampling(temperature=1.0, max_tokens=12))


async def test_versions_of_one_base_share_it_and_speak_as_if_each_were_whole(base, tmp_path):
    one, two = taught(base, tmp_path / "one"), taught(base, tmp_path / "two", steps=6)
    shared, apart = (TransformersModel("base", base, plain) for _ in range(2))
    for name, folder in {"learner-1": one, "learner-2": two}.items():
        shared.load(name, folder)
        apart.load(name, merged(folder, tmp_path / f"whole-{name}"))
    versions = ["base", "learner-1", "learner-2"]
    ours, theirs = [await said(engine, versions, range(5)) for engine in (shared, apart)]
    for (ids, logprobs), (whole_ids, whole_logprobs) in zip(ours, theirs, strict=True):
        assert ids == whole_ids
        assert logprobs == pytest.approx(whole_logprobs, abs=1e-4)
    assert ours[0] != ours[1] != ours[2]
    assert len({policy.model for policy in shared._policies.values()}) == 1
    shared.unload("learner-1")
    alone = await said(shared, ["learner-2"], range(5))
    assert [ids for ids, _ in alone] == [ids for ids, _ in ours[2::3]]
    assert [ids for ids, _ in await said(shared, ["base"], range(5))] == [i for i, _ in ours[::3]]
    await shared.close()
    await apart.close()


@pytest.mark.parametrize(
    "method",
    ["sft", "dpo", "exo", "exo_rw", "ipo", "kto", "pro", "self_rewarding", "genrm", "verifier"],
)
def test_a_learner_changes_its_adapter_alone(base, tmp_path, method):
    before = {name: (base / name).read_bytes() for name in ("model.safetensors", "config.json")}
    out = taught(base, tmp_path / "out", method)
    assert {name: (base / name).read_bytes() for name in before} == before
    assert not (out / "model.safetensors").exists() and base_of(out) == base.resolve()
    learnt = load_file(out / WEIGHTS)
    assert any(weights.any() for name, weights in learnt.items() if "lora_B" in name)
    assert sum(weights.numel() for weights in learnt.values()) < 0.4 * sum(
        weights.numel() for weights in load(base)[0].parameters()
    )


def test_an_adapter_goes_on_where_it_ended(base, tmp_path):
    first = taught(base, tmp_path / "first")
    second = taught(first, tmp_path / "second", method="dpo")  # step 0 checks that h is 0
    a, b = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert a.keys() == b.keys() and any((a[name] != b[name]).any() for name in a)
    assert base_of(second) == base.resolve()
    assert [r.ids for r in drawn(second)] != [r.ids for r in drawn(base)]


def test_a_new_adapter_follows_from_the_seed_and_changes_nothing_yet(base, tmp_path):
    state = torch.random.get_rng_state()
    config = learn_config({"method": "sft", "lora": 4, "seed": 1})
    one, two = load(base, config)[0], load(base, config)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == ("lora" in name)
    ids = torch.arange(8)[None]
    whole = load(base)[0]
    assert torch.equal(one(ids).logits, whole(ids).logits)


def test_what_cannot_go_on_says_why(base, tmp_path):
    folder = taught(base, tmp_path / "adapter")
    with pytest.raises(BadInput, match=r"learn.lora: 8, but .*adapter is an adapter of rank 4"):
        taught(folder, tmp_path / "no", lora=8)
    with pytest.raises(BadInput, match=r"learn.lora: None, but .* rank 4"):
        taught(folder, tmp_path / "no", lora=None)
    config = json.loads((folder / CONFIG).read_text())

    def changed(**more):
        (folder / CONFIG).write_text(json.dumps(config | more))
        return pytest.raises(BadInput, match=f"{CONFIG}.*{next(iter(more))}")

    with changed(peft_type="IA3"):
        load(folder)
    with changed(base_model_name_or_path=str(tmp_path / "gone")):
        load(folder)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(BadInput, match="only safetensors"):
        load(folder)


def test_a_reward_model_is_whole(base, tmp_path):
    with pytest.raises(ValueError, match="lora"):
        learn_config({"method": "reward", "lora": 4})
    adapter = taught(base, tmp_path / "adapter")
    with pytest.raises(BadInput, match=r"is an adapter over .*a reward model starts from whole"):
        LEARNERS["reward"](adapter, ROWS, learn_config({"method": "reward"}), tmp_path / "out")


def letters(prompts, replies):
    """The share of small letters in a reply."""
    return [sum(map(str.islower, reply)) / 12 for reply in replies]


@pytest.mark.parametrize("learner", [grpo, rloo, ppo], ids=["grpo", "rloo", "ppo"])
def test_online_learners_hold_an_adapter_against_what_it_was(base, tmp_path, learner):
    """Step 0 stops them if the reference is another policy."""
    method = learner.__name__.rpartition(".")[2]
    told = {"method": method, "lora": 4, "lr": 0.01, "steps": 3, "batch": 8, "max_tokens": 6}
    config = learn_config(
        {**told, "cut": 0.0, **({"epochs": 1} if method == "ppo" else {"group": 4})}
    )
    start = taught(base, tmp_path / "start", lr=0.05)  # far enough to tell it from the base
    for parent in (base, start):
        out = tmp_path / f"from-{parent.name}"
        told = learner.learn(parent, ROWS, config, out, score=letters)
        assert told["first"]["kl"] == pytest.approx(0, abs=1e-3)
        assert abs(told["last"]["kl"]) > 1e-6
        assert base_of(out) == base.resolve() and not (out / "model.safetensors").exists()
