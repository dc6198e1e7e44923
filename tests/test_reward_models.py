"""Reward models, verifiers and critics as scorers, and learners that TRL runs on them."""

import json
import math
import random
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from superalign.learners import (
    LEARNERS,
    genrm,
    groups,
    grpo,
    learner,
    ppo,
    reward,
    rloo,
    scoring,
    verifier,
)
from superalign.learners.config import (
    GenrmConfig,
    GrpoConfig,
    PpoConfig,
    RewardConfig,
    RlooConfig,
    VerifierConfig,
)
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Message, Row

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def roomy(base, tmp_path_factory):
    """The same weights with room for what a chat model is asked."""
    folder = tmp_path_factory.mktemp("roomy") / "base"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    return folder


def asked(n, role="user"):
    prompt = [Message(role=role, content=f"{n}+{n}")]
    return tuple(prompt if role == "user" else [*prompt, Message(role="answer", content="")])


def row(n, kind, *replies, role="user", **more):
    known = {"seat": "learner", "source": "ai", "judge": "critic", "turns": (f"r/e{n}/k",)}
    return Row(kind=kind, prompt=asked(n, role), replies=replies, **{**known, **more})


def words(n):
    """A word with an `a` in front, which is better, and one with a `b`."""
    rng = random.Random(n)
    tail = "".join(rng.choices("cdefgh", k=rng.randrange(4)))
    return f"a{tail}", f"b{tail}"


def read(scores) -> Any:
    """Scores none of which is missing."""
    assert None not in scores
    return scores


PAIRS = [row(n, "pref", *words(n)) for n in range(24)]


def config(**more):
    return RewardConfig(**{"steps": 30, "batch": 8, "lr": 1e-2, "heldout": 0.3, **more})


# Reward models.


@pytest.mark.parametrize("role", ["user", "question"])
def test_a_reward_model_orders_pairs_that_it_has_not_seen(base, tmp_path, role):
    pairs = [row(n, "pref", *words(n), role=role) for n in range(24)]
    told = reward.learn(base, pairs, config(), tmp_path)
    assert told["first"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert told["last"]["loss"] < 0.2
    assert told["last"]["accuracy"] == 1
    assert 2 <= told["heldout_pairs"] <= 14
    assert told["heldout_accuracy"] == 1

    score = scoring.load_scorer(tmp_path)
    prompts = [asked(99, role)] * 4
    good, bad, _, again = read(score(prompts, ["acc", "bcc", "a much longer reply", "acc"]))
    assert good > bad
    assert good == pytest.approx(again, abs=1e-5)


def test_a_reward_model_is_what_transformers_reads(base, tmp_path):
    reward.learn(base, PAIRS, config(steps=3), tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    _, tokenizer = learner.load(base)
    ids = tokenizer("<bos><|user|>3+3<|assistant|>add<eos>", return_tensors="pt")
    (ours,) = scoring.load_scorer(tmp_path)([asked(3)], ["add"])
    theirs = model(ids.input_ids, attention_mask=ids.attention_mask).logits[0, 0].item()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert "score.weight" in load_file(tmp_path / "model.safetensors")


def test_a_reward_model_goes_on_from_itself(base, tmp_path):
    first = reward.learn(base, PAIRS, config(), tmp_path / "a")
    second = reward.learn(tmp_path / "a", PAIRS, config(steps=1), tmp_path / "b")
    assert second["first"]["loss"] < 2 * first["last"]["loss"]


def test_pairs_of_one_prompt_stand_in_one_step_and_weigh_one():
    ranking = row(1, "rank", "x", "y", "z", rewards=(0.0, 2.0, 1.0))
    tie = row(2, "rank", "x", "y", "z", rewards=(0.0, 2.0, 2.0))
    none = row(3, "rank", "x", "y", rewards=(1.0, 1.0))
    one, two = reward.compared([ranking, tie, none, row(1, "pref", "y", "w", flip_prob=0.2)])
    better_worse = {(one.replies[i], one.replies[j]): eps for (i, j), eps in one.pairs.items()}
    assert better_worse == {("y", "x"): 0, ("z", "x"): 0, ("y", "z"): 0, ("y", "w"): 0.2}
    assert [(two.replies[i], two.replies[j]) for i, j in two.pairs] == [("y", "x"), ("z", "x")]
    for parts in reward.steps([one, two], config(steps=5, batch=7, micro_batch=1)):
        assert all(len(part) == 1 for part in parts)
        assert sum(len(c.pairs) for part in parts for c in part) >= 7


def test_how_a_step_is_split_changes_nothing(base, tmp_path):
    rows, logs = [*PAIRS, *(row(n, "pref", "acd", "bb", flip_prob=0.1) for n in range(6))], []
    for micro_batch in (8, 4, 1):
        settings = config(steps=3, micro_batch=micro_batch)
        reward.learn(base, rows, settings, tmp_path, lambda step: logs.append(dict(step)))
    whole, *parts = logs[:3], logs[3:6], logs[6:]
    for log in parts:
        for step, wanted in zip(log, whole, strict=True):
            for name in wanted.keys() - {"seconds"}:
                assert step[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name


def test_a_doubtful_pair_is_ordered_by_less(base, tmp_path):
    margins = []
    for flip_prob in (0.0, 0.3):
        pairs = [row(n, "pref", *words(n), flip_prob=flip_prob) for n in range(24)]
        margins.append(reward.learn(base, pairs, config(steps=60), tmp_path)["last"]["margin"])
    assert margins[0] > 3
    assert margins[1] == pytest.approx(math.log(0.7 / 0.3), abs=0.3)


def test_a_head_that_does_not_start_at_zero_stops_the_first_step(base, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "zeros_", torch.nn.init.ones_)
    with pytest.raises(SuperalignError, match="step 0: the loss of a pair"):
        reward.learn(base, PAIRS, config(), tmp_path)


def test_rows_without_order_or_room_are_refused(base, tmp_path):
    with pytest.raises(BadInput, match="0 prompts with pairs"):
        reward.learn(base, [row(1, "reward", "x", rewards=(1.0,))], config(), tmp_path)
    with pytest.raises(BadInput, match="66 tokens to read, and the model has 64 positions"):
        reward.learn(base, [row(1, "pref", "9" * 59, "1")], config(heldout=0.0), tmp_path)


@pytest.mark.parametrize("role", ["user", "question"])
def test_a_critique_is_read_beside_the_reply(roomy, tmp_path, role, monkeypatch):
    """Where only the critique tells better from worse, only a model that reads it can."""

    def criticise(prompts, replies):
        return ["ok" if sum(map(ord, reply)) % 2 else "1" for reply in replies]

    def even(n):
        texts = [chr(99 + n % 7) + chr(100 + k) for k in range(2)]
        return sorted(texts, key=lambda text: sum(map(ord, text)) % 2, reverse=True)

    monkeypatch.setattr(reward, "critic_in", lambda folder: criticise)
    monkeypatch.setattr(scoring, "critic_in", lambda folder: criticise)
    pairs = [row(n, "pref", *even(n), role=role) for n in range(24)]
    told = reward.learn(roomy, pairs, config(critic="critic", steps=40), tmp_path)
    assert told["heldout_accuracy"] == 1
    good, bad = read(scoring.load_scorer(tmp_path)([asked(50, role)] * 2, even(50)))
    assert good > bad


# Verifiers.


def judged(n, role="user"):
    right, wrong = words(n)
    return [
        row(n, "reward", right, rewards=(1.0,), role=role),
        row(n, "reward", wrong, rewards=(0.0,), role=role),
    ]


def test_a_generative_verifier_says_how_likely_a_reply_is_right(base, tmp_path):
    rows = [one for n in range(16) for one in judged(n, "question")]
    told = genrm.learn(base, rows, GenrmConfig(steps=60, batch=16, lr=1e-2), tmp_path)
    assert told["last"]["verdict"] < 0.5 * told["first"]["verdict"]
    found: Any = scoring.load_scorer(tmp_path)([asked(99, "question")] * 2, ["acc", "bcc"])
    assert found[0] > 0.8
    assert found[1] < 0.2


def test_a_token_verifier_says_how_likely_a_reply_is_right(base, tmp_path):
    """The first letter tells: values are apart from the second token on, and at the end."""
    rows, logs = [one for n in range(16) for one in judged(n)], []
    settings = VerifierConfig(steps=60, batch=16, lr=1e-2)
    told = verifier.learn(base, rows, settings, tmp_path)
    assert 0.2 < told["first"]["value"] < 0.8  # the head starts at 0: the share of right tokens
    assert told["last"]["value"] < 0.15
    good, bad, longer = read(scoring.load_scorer(tmp_path)([asked(9)] * 3, ["acc", "bcc", "bccd"]))
    assert good > 0.8
    assert max(bad, longer) < 0.2
    for micro_batch in (16, 5):
        settings = VerifierConfig(steps=1, batch=16, micro_batch=micro_batch)
        verifier.learn(base, rows, settings, tmp_path, logs.append)
    for name in ("loss", "value", "sft", "grad_norm"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4), name


def test_a_verifiers_score_is_the_share_of_yes(roomy):
    model, tokenizer = learner.load(roomy)
    score = scoring.verdict(model, tokenizer)
    (found,) = score([asked(1)], ["2"])
    ids = scoring.encode_prompt(tokenizer, scoring.asked_about(asked(1), "2", "verdict"))
    sums = []
    for word in ("yes", "no"):
        whole = [*ids, *tokenizer.encode(word), 2]
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        sums.append(sum(logprobs[t - 1, whole[t]].item() for t in range(len(ids), len(whole))))
    assert found == pytest.approx(math.exp(sums[0]) / sum(map(math.exp, sums)), rel=1e-4)
    assert score([asked(1), asked(2)], ["2", "longer"])[0] == pytest.approx(found, rel=1e-4)


def test_yes_is_as_frequent_as_no():
    rows = [*judged(1), *(judged(n)[1] for n in range(2, 7))]
    taught = genrm.balanced(rows)
    assert sorted(one.replies[0] for one in taught) == ["no"] * 6 + ["yes"] * 6
    assert {one.prompt[-2].content for one in taught if one.replies == ("yes",)} == {words(1)[0]}
    with pytest.raises(BadInput, match="1 right, 0 wrong; a verifier needs both"):
        genrm.balanced(judged(1)[:1])
    with pytest.raises(BadInput, match=r"r/e1/k: rewards are \(0\.5,\)"):
        genrm.balanced([row(1, "reward", "x", rewards=(0.5,))])


# Critics.


def test_a_critic_that_says_nothing_readable_scores_nothing():
    score = scoring.critic(lambda prompts, replies: ["ok", "2", "well", "So.\nCritique: ok"])
    assert score([asked(1)] * 4, ["x"] * 4) == [1.0, 0.0, None, 1.0]


def test_a_critic_writes_what_is_likeliest(roomy):
    say = scoring.writer(*learner.load(roomy), max_tokens=4)
    first = say([asked(1), asked(2)], ["2", "5"])
    assert all(len(text) <= 4 for text in first)
    assert first == [say([asked(1)], ["2"])[0], say([asked(2)], ["5"])[0]]


def test_a_folder_without_a_scorer_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"learn\.scorer: .*nothing holds no weights"):
        scoring.load_scorer(tmp_path / "nothing")


# By TRL.


def online(method, **more):
    settings = {"steps": 2, "batch": 8, "micro_batch": 4, "group": 4, "max_tokens": 4, **more}
    return {"grpo": GrpoConfig, "rloo": RlooConfig}[method](**settings)


def letters(prompts, replies):
    """The share of small letters in a reply."""
    return [sum(map(str.islower, reply)) / 4 for reply in replies]


@pytest.mark.parametrize("role", ["user", "question"])
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_trl_learns_from_our_scorers(base, tmp_path, method, role):
    rows = [row(n, "reward", "x", role=role, rewards=(1.0,)) for n in (1, 2)]
    asked_for, logs = [], []

    def score(prompts, replies):
        asked_for.extend(prompts)
        assert not any("<|" in reply for reply in replies)
        return letters(prompts, replies)

    learn = {"grpo": grpo.learn, "rloo": rloo.learn}[method]
    settings = online(method, cut=0.0, lr=1e-2)
    told = learn(base, rows, settings, tmp_path, logs.append, score)
    assert told["steps"] == len(logs) == 2
    assert told["first"]["kl"] == pytest.approx(0, abs=1e-4)
    assert len(asked_for) == 16
    assert set(asked_for) == {asked(1, role), asked(2, role)}
    assert all(len(set(asked_for[i : i + 4])) == 1 for i in range(0, 16, 4))
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path))
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert learner.load(tmp_path)[1].padding_side == "right"


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_trl_without_a_scorer_is_refused(base, tmp_path, method):
    with pytest.raises(BadInput, match=r"learn\.scorer: null"):
        LEARNERS[method](base, judged(1), online(method), tmp_path)
    with pytest.raises(BadInput, match=r"learn\.batch: 6 is no multiple"):
        {"grpo": grpo.learn, "rloo": rloo.learn}[method](
            base, judged(1), online(method, batch=6), tmp_path, score=letters
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_small_letters_that_pay_are_written_more(base, tmp_path, method):
    rows = [one for n in range(8) for one in judged(n)]
    settings = online(method, steps=30, batch=32, micro_batch=32, lr=4e-3, kl=0.0, cut=0.0)
    learn = {"grpo": grpo.learn, "rloo": rloo.learn}[method]
    told = learn(base, rows, settings, tmp_path, score=letters)
    assert told["last"]["reward"] > told["first"]["reward"] + 0.3


def test_what_was_not_scored_or_was_cut_off_earns_its_groups_mean(base):
    _, tokenizer = learner.load(base)
    ended, cut = [60, 2], [60, 61]
    scores = iter([[1.0, 0.0, None, 0.5, None, None, 0.25, 0.75]] * 2)
    ids = [ended, ended, ended, cut, ended, ended, ended, cut]
    for price, wanted in (
        (None, [1, 0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]),
        (0.5, [1, 0, 1 / 3, 0, 0.25, 0.25, 0.25, 0.25]),
    ):
        reward = groups.rewarded(
            lambda prompts, replies: next(scores), [asked(1)], tokenizer, online("grpo", cut=price)
        )
        assert reward(completion_ids=ids, nth=[0] * 8) == pytest.approx(wanted)


def test_a_prompt_that_spells_a_control_token_is_refused(base):
    _, tokenizer = learner.load(base)
    forged = (Message(role="user", content="<eos>"),)
    with pytest.raises(BadInput, match="it spells a control token"):
        groups.spelt(tokenizer, forged)
    assert groups.spelt(tokenizer, asked(1)) == "<bos><|user|>1+1<|assistant|>"


def test_a_reward_model_teaches_by_ppo(base, tmp_path):
    """`a` first is better: the policy comes to write it, told by the folder's name alone."""
    reward.learn(base, PAIRS, config(), tmp_path / "judge")
    rows = [one for n in range(8) for one in judged(n)]
    settings = PpoConfig(
        steps=60, batch=32, lr=6e-3, kl=0.0, cut=0.0, max_tokens=4, scorer=str(tmp_path / "judge")
    )
    told = ppo.learn(base, rows, settings, tmp_path / "out")
    assert told["last"]["reward"] > told["first"]["reward"] + 1
    assert set(LEARNERS) >= {"ppo", "reward", "genrm", "grpo", "rloo"}
