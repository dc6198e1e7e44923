"""PPO: its arithmetic against hand tables, its guards, its invariances, and that it learns."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from superalign.learners import LEARNERS, learner, ppo, reading, surrogate
from superalign.learners.config import PpoConfig
from superalign.learners.values import HEAD, ActorCritic, pad
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Message, Row

ALL = torch.ones(1, 3, dtype=torch.bool)


pytestmark = pytest.mark.usefixtures("one_thread")


def row(n, reply="a", reward=1.0, **more):
    known = {"seat": "learner", "source": "ai", "judge": "critic", "turns": (f"r/e{n}/k",)}
    prompt = (Message(role="user", content=f"{n}+{n}"),)
    told = {"prompt": prompt, "replies": (reply,), "rewards": (reward,), **known, **more}
    return Row(kind="reward", **told)


ROWS = [row(n, "ab"[n % 2] * (1 + n % 3), float(n % 2 == 0)) for n in range(8)]


def config(**more):
    return PpoConfig(**{"steps": 4, "batch": 8, "max_tokens": 6, **more})


def letters(prompts, replies):
    """The share of small letters in a reply."""
    return [sum(map(str.islower, reply)) / 6 for reply in replies]


def only_a(prompts, replies):
    """The share of `a` in a reply."""
    return [reply.count("a") / 6 for reply in replies]


# Arithmetic.


def test_advantages_are_those_of_a_hand_table():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    advantages, returns = surrogate.gae(rewards, values, gamma=1.0, lam=0.95)
    # delta: 0 + 0.4 - 0.5, 0 + 0.3 - 0.4, 1 + 0 - 0.3
    torch.testing.assert_close(advantages, torch.tensor([[0.43675, 0.565, 0.7]]))
    torch.testing.assert_close(returns, torch.tensor([[0.93675, 0.965, 1.0]]))
    advantages, _ = surrogate.gae(rewards, values, gamma=0.9, lam=0.5)
    # delta: -0.14, -0.13, 0.7; A_1 = -0.13 + 0.45 * 0.7, A_0 = -0.14 + 0.45 * 0.185
    torch.testing.assert_close(advantages, torch.tensor([[-0.05675, 0.185, 0.7]]))


rows_of_numbers = st.lists(
    st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)), min_size=1, max_size=9
)


@given(rows_of_numbers, st.floats(0.5, 1), st.integers(0, 4))
def test_trusting_what_was_earned_leaves_values_as_baselines_and_padding_out(steps, gamma, more):
    rewards, values = torch.tensor(steps, dtype=torch.float64).T
    earned = [
        sum(gamma ** (k - t) * rewards[k].item() for k in range(t, len(steps)))
        for t in range(len(steps))
    ]
    padding = torch.zeros(more, dtype=torch.float64)
    padded = [torch.cat([one, padding])[None] for one in (rewards, values)]
    advantages, returns = surrogate.gae(padded[0], padded[1], gamma, lam=1.0)
    wanted = torch.cat([torch.tensor(earned, dtype=torch.float64), padding])[None]
    torch.testing.assert_close(returns, wanted)
    torch.testing.assert_close(advantages, wanted - padded[1])
    one_step, _ = surrogate.gae(padded[0], padded[1], gamma, lam=0.0)
    after = torch.cat([padded[1][0, 1:], padding.new_zeros(1)])
    torch.testing.assert_close(one_step[0], padded[0][0] + gamma * after - padded[1][0])


def test_the_policy_loss_is_clipped_where_pushing_further_would_pay():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    log_ratio = ratio.log().requires_grad_()
    loss = surrogate.policy_loss(log_ratio, advantage, 0.2)
    torch.testing.assert_close(loss, loss.new_tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))
    loss.sum().backward()
    torch.testing.assert_close(log_ratio.grad, loss.new_tensor([0, 1.5, -0.5, 0, -2.2]))


def test_the_value_loss_is_the_larger_of_two():
    values, old = torch.tensor([1.0, 0.1, 1.0]), torch.tensor([0.0, 0.0, 0.0])
    loss = surrogate.value_loss(values, old, torch.tensor([1.0, 1.0, 0.0]), 0.2)
    # the first has arrived, yet is held near its old value; the second moved less than the clip
    torch.testing.assert_close(loss, torch.tensor([0.32, 0.405, 0.5]))


def test_the_reward_lands_on_the_end_token_and_every_token_pays_for_its_drift():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    drift = torch.tensor([[0.5, -1.0, 0.0], [2.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    earned = surrogate.earned(drift, mask, torch.tensor([1.0, -1.0, 5.0]), kl=0.1)
    wanted = torch.tensor([[-0.05, 0.1, 1.0], [-1.2, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(earned, wanted)


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=12), st.integers(1, 11))
def test_whitening_is_over_tokens_however_they_are_shared_out(values, cut):
    tokens, mask = torch.tensor([values]), torch.ones(1, len(values), dtype=torch.bool)
    whole = surrogate.moments(tokens, mask)
    shares = surrogate.moments(tokens[:, :cut], mask[:, :cut])
    shares = shares + surrogate.moments(tokens[:, cut:], mask[:, cut:])
    torch.testing.assert_close(whole, shares)
    white = surrogate.whiten(tokens, mask, whole)
    assert white.mean().item() == pytest.approx(0, abs=1e-3)
    if tokens.std() > 0.1:
        assert white.std(correction=0).item() == pytest.approx(1, abs=1e-3)


# The value head.


def test_log_probabilities_and_values_are_those_of_a_plain_forward_pass(base):
    policy, _ = learner.load(base)
    actor = ActorCritic(policy, base)
    torch.nn.init.normal_(actor.head.weight)
    pairs = [([1, 4, 60, 61], [70, 71, 2]), ([1, 62], [72, 2]), ([1, 4, 60], [])]
    padded = pad(pairs, policy.device)
    read = actor(padded.ids_B_L, padded.reply_B_L)
    logprobs, values = [], []
    for prompt, reply in pairs:
        said = policy(torch.tensor([prompt + reply]), output_hidden_states=True)
        for t in range(len(prompt), len(prompt + reply)):
            logprobs.append(said.logits[0, t - 1].log_softmax(-1)[(prompt + reply)[t]])
            values.append(actor.head(said.hidden_states[-1][0, t - 1])[0])
    torch.testing.assert_close(read.logprobs_M, torch.stack(logprobs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read.values_M, torch.stack(values), rtol=1e-5, atol=1e-5)
    spread = padded.spread(read.logprobs_M)
    assert (spread != 0).tolist() == [[True] * 3, [True, True, False], [False] * 3]


def test_the_next_update_goes_on_with_the_value_head(base, tmp_path):
    LEARNERS["ppo"](base, ROWS, config(lr=1e-2), tmp_path / "a")
    head = load_file(tmp_path / "a" / HEAD)
    assert head["weight"].abs().max() > 0
    policy, _ = learner.load(tmp_path / "a")
    assert torch.equal(ActorCritic(policy, tmp_path / "a").head.weight, head["weight"])


# Guards.


@pytest.mark.parametrize("score", [None, letters])
def test_before_the_first_update_nothing_has_moved(base, tmp_path, score):
    logs = []
    ppo.learn(base, ROWS, config(steps=2, cut=0.0), tmp_path, logs.append, score)
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert logs[0]["clipped"] == 0
    assert logs[0]["moved"] == pytest.approx(0, abs=1e-6)
    assert logs[1]["moved"] > 0
    assert all(step["kl"] > -1e-4 for step in logs)


def test_a_wrong_reference_stops_the_first_step(base, tmp_path, monkeypatch):
    def moved(model, shared):
        twin = honest(model, shared)
        twin.get_output_embeddings().weight.data *= 2
        return twin

    honest = ppo.copy.deepcopy
    monkeypatch.setattr(ppo, "copy", SimpleNamespace(deepcopy=moved))
    with pytest.raises(SuperalignError, match="step 0: policy and reference differ by up to"):
        ppo.learn(base, ROWS, config(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_engine_with_other_weights_stops_the_first_step(base, tmp_path, monkeypatch):
    honest = ppo.draw

    def stale(*given):
        drawn = honest(*given)
        drawn[0].logprobs[0] += 0.5
        return drawn

    monkeypatch.setattr(ppo, "draw", stale)
    with pytest.raises(SuperalignError, match=r"policy and engine differ by up to 0\.5"):
        ppo.learn(base, ROWS, config(cut=0.0), tmp_path, score=letters)


def test_bad_rows_are_refused(base, tmp_path):
    long = row(1, "9" * 60)
    with pytest.raises(BadInput, match=r"r/e1/k: 67 tokens, and the model has 64 positions"):
        ppo.learn(base, [long], config(), tmp_path)
    wrong = row(1, token_ids=(60, 2), token_rewards=(1.0,))
    with pytest.raises(BadInput, match="1 token_rewards for 2 tokens"):
        ppo.learn(base, [wrong], config(), tmp_path)
    with pytest.raises(BadInput, match="`reward` rows: none"):
        ppo.learn(base, [], config(), tmp_path)


def test_without_any_reward_token_rewards_teach_nothing_either(base, tmp_path):
    cut = row(2, "aa", token_ids=(70, 70), token_rewards=(1.0, 0.0))
    with pytest.raises(SuperalignError, match="none was scored, or none ended"):
        ppo.learn(base, [cut], config(batch=2), tmp_path)


def test_a_stored_reply_that_was_cut_off_pays_or_is_left_out(base, tmp_path):
    whole, cut = row(1, "a", token_ids=(70, 2)), row(2, "aa", token_ids=(70, 70))
    for price, reward, used in ((None, 1.0, 0.5), (0.5, 0.75, 1.0)):
        settings, logs = config(steps=1, batch=2, cut=price), []
        ppo.learn(base, [whole, cut], settings, tmp_path, logs.append)
        assert logs[0]["reward"] == pytest.approx(reward)
        assert (logs[0]["used"], logs[0]["ended"]) == (used, 0.5)


def test_what_has_no_reward_teaches_nothing(base, tmp_path):
    with pytest.raises(SuperalignError, match="none was scored, or none ended"):
        ppo.learn(base, ROWS, config(), tmp_path, score=lambda p, r: [None] * len(r))
    logs = []

    def some(prompts, replies):
        return [1.0 if i == 3 else None for i in range(len(replies))]

    ppo.learn(base, ROWS, config(steps=1, cut=2.0), tmp_path, logs.append, some)
    assert logs[0]["used"] == 1 / 8
    assert logs[0]["reward"] in (1.0, -1.0)  # the latter if it was cut off
    assert (logs[0]["reward"] == 1.0) <= (logs[0]["ended"] > 0)


# The update.


@pytest.mark.parametrize("score", [None, letters])
def test_how_a_step_is_split_changes_nothing(base, tmp_path, score):
    logs = []
    for micro_batch in (8, 4, 3):
        settings = config(micro_batch=micro_batch, lr=3e-3, epochs=2, cut=0.5)
        ppo.learn(base, ROWS, settings, tmp_path, lambda step: logs.append(dict(step)), score)
    whole, *parts = logs[:4], logs[4:8], logs[8:]
    for log in parts:
        for step, wanted in zip(log, whole, strict=True):
            for name in wanted.keys() - {"seconds"}:
                assert step[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name


@pytest.fixture
def read(monkeypatch):
    """The prompts with their replies of every pass that PPO cuts."""
    passes, honest = [], ppo.pad

    def counting(pairs, device):
        passes.append([(*prompt, *reply) for prompt, reply in pairs])
        return honest(pairs, device)

    monkeypatch.setattr(ppo, "pad", counting)
    return passes


@pytest.mark.parametrize("score", [None, letters])
def test_what_is_read_together_changes_nothing(base, tmp_path, monkeypatch, read, score):
    rows = [row(10**n, "ab" * (1 + n), float(n % 2)) for n in range(8)]
    logs, counts = [], []
    for borne in (0, 16, 10**6):
        monkeypatch.setattr(reading, "PASS", borne)
        settings = config(lr=3e-3, epochs=2, cut=0.5)
        ppo.learn(base, rows, settings, tmp_path, lambda step: logs.append(dict(step)), score)
        counts.append(len(read))
        read.clear()
    assert counts[0] > counts[1] > counts[2]
    apart, some, together = logs[:4], logs[4:8], logs[8:]
    for log in (apart, some):
        for step, wanted in zip(log, together, strict=True):
            for name in wanted.keys() - {"seconds"}:
                assert step[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name


def test_replies_without_a_reward_are_not_read(base, tmp_path, read):
    def some(prompts, replies):
        return [1.0 if i in (2, 5) else None for i in range(len(replies))]

    ppo.learn(base, ROWS, config(steps=1, cut=0.5), tmp_path, score=some)
    assert len({line for one in read for line in one}) == 2


def test_the_same_seed_gives_the_same_update(base, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = config(batch=4, seed=seed, cut=0.0)
        ppo.learn(base, ROWS, settings, tmp_path / name, score=letters)
    a, b, c = (learner.load(tmp_path / name)[0].state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_letter_that_pays_is_written_more(base, tmp_path):
    settings = config(steps=80, batch=32, lr=6e-3, kl=0.0, cut=0.0)
    told = ppo.learn(base, ROWS, settings, tmp_path, score=only_a)
    assert told["first"]["reward"] < 0.1
    assert told["last"]["reward"] > 0.4
    assert told["last"]["kl"] > 1
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert len(lines) == told["steps"] == 80
    assert json.loads(lines[-1])["entropy"] < json.loads(lines[0])["entropy"]


def logprobs(folder, rows, base):
    policy, tokenizer = learner.load(folder)
    examples = learner.encode(rows, "reward", policy, tokenizer)
    batch = learner.collate(examples, range(len(rows)), policy.device)
    return learner.sequence_logprobs(policy, batch)[:, 0]


def test_stored_replies_that_paid_become_likelier_and_others_less(base, tmp_path):
    ppo.learn(base, ROWS, config(steps=16, lr=3e-3, clip=0.5), tmp_path)
    gains = logprobs(tmp_path, ROWS, base) - logprobs(base, ROWS, base)
    paid = torch.tensor([r.rewards == (1.0,) for r in ROWS])
    assert gains[paid].mean() > 0 > gains[~paid].mean()


def test_a_token_that_pays_by_itself_is_the_one_that_becomes_likelier(base, tmp_path):
    tokenizer = learner.load(base)[1]
    ids = (*tokenizer.encode("ab"), 2)
    paid = [row(n, "ab", 0.0, token_ids=ids, token_rewards=(0.0, 1.0, 0.0)) for n in range(8)]
    settings = config(steps=12, lr=1e-3, gamma=0.01, clip=0.5)
    ppo.learn(base, paid, settings, tmp_path)
    pairs = [(tokenizer.encode("<bos><|user|>1+1<|assistant|>"), list(ids))]
    said = []
    for folder in (base, tmp_path):
        padded = pad(pairs, torch.device("cpu"))
        said.append(ActorCritic(learner.load(folder)[0], folder)(*padded[:2]).logprobs_M)
    gain = (said[1] - said[0]).tolist()
    assert gain[1] > 0.1
    assert gain[1] > max(gain[0], gain[2])


def test_dearer_drift_keeps_the_policy_nearer(base, tmp_path):
    far = []
    for kl in (0.0, 0.5):
        settings = config(steps=32, batch=32, lr=4e-3, kl=kl, cut=0.0)
        told = ppo.learn(base, ROWS, settings, tmp_path, score=letters)
        far.append(told["last"]["kl"])
    assert far[1] < 0.5 * far[0]


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(base, tmp_path):
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from superalign.learners import ppo, reading\n"
        "reading.PASS = 0\n"  # so that processes do not have as many passes as each other
        "from superalign.learners.config import PpoConfig\n"
        "from superalign.store.records import Row\n"
        "rows = [Row.model_validate_json(line) for line in Path(sys.argv[2]).open()]\n"
        "told = PpoConfig(steps=4, batch=8, max_tokens=6, cut=0.5, lr=3e-3)\n"
        "score = lambda prompts, replies: [len(set(reply)) / 6 for reply in replies]\n"
        "ppo.learn(Path(sys.argv[1]), rows, told, Path(sys.argv[3]), None, score)\n"
    )
    (tmp_path / "learn.py").write_text(script)
    (tmp_path / "rows").write_text("".join(r.model_dump_json() + "\n" for r in ROWS))
    logs = []
    for n in (1, 2):
        out = tmp_path / f"out{n}"
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(n)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        words = [tmp_path / "learn.py", base, tmp_path / "rows", out]
        subprocess.run([sys.executable, *launch, *map(str, words)], check=True)
        logs.append([json.loads(line) for line in (out / "steps.jsonl").open()])
    for one, two in zip(*logs, strict=True):
        for name in one.keys() - {"seconds"}:
            assert math.isclose(one[name], two[name], rel_tol=1e-3, abs_tol=1e-5), name
