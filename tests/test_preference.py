"""What single learners from preferences do besides: KTO's answers, IPO's stop, PRO's rankings."""

from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from superalign.learners import LEARNERS, kto, learn_config, learner, losses, reading
from superalign.learners.config import KtoConfig
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Message, Row

pytestmark = pytest.mark.usefixtures("one_thread")


def row(n, kind, *replies, **more):
    known = {"seat": "learner", "source": "ai", "judge": "critic@1", "turns": (f"r/e{n}/k",)}
    prompt = (Message(role="user", content=f"{n}+{n}"),)
    return Row(kind=kind, prompt=prompt, replies=replies, **{**known, **more})


def answer(n, good, text=None):
    text = text or (f"{2 * n}" if good else f"{2 * n + 1}, I think")
    return row(n, "reward", text, rewards=(float(good),))


ANSWERS = [answer(n, good) for n in range(8) for good in (True, False)]
PAIRS = [row(n, "pref", f"{2 * n}", f"{2 * n + 1}, I think") for n in range(8)]
RANKS = [row(n, "rank", f"{2 * n}", f"{2 * n + 1}", "none", rewards=(1, 0, -1)) for n in range(8)]


def config(method, **more):
    return learn_config({"method": method, "steps": 2, "batch": 8, **more})


# KTO.


def test_a_pair_is_two_answers(base, tmp_path):
    for name, rows in (("answers", ANSWERS), ("pairs", PAIRS), ("both", [*PAIRS, *ANSWERS])):
        LEARNERS["kto"](base, rows, config("kto"), tmp_path / name)
    answers, pairs, both = (
        learner.load(tmp_path / name)[0].state_dict() for name in ("answers", "pairs", "both")
    )
    assert all(torch.equal(answers[name], pairs[name]) for name in answers)
    assert all(torch.equal(answers[name], both[name]) for name in answers)


def test_an_answer_of_which_both_was_said_is_left_out():
    rows = [answer(1, True), answer(2, True), answer(2, False, "4"), answer(1, True)]
    assert kto.judged(rows) == [answer(1, True)]


def test_rewards_between_good_and_bad_are_refused():
    with pytest.raises(BadInput, match=r"r/e1/k: reward \(0\.5,\).* by ppo, or .* by exo_rw"):
        kto.judged([row(1, "reward", "2", rewards=(0.5,))])


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_good_and_bad_answers_count_alike(good, bad):
    for told in ({}, {"desirable": 1.7}, {"undesirable": 1.7}):
        desirable, undesirable = kto.weights(good, bad, KtoConfig().model_copy(update=told))
        assert desirable * good == pytest.approx(undesirable * bad)
        least = min(desirable, undesirable)
        assert 1.7 in (desirable, undesirable) if told else least == pytest.approx(1)


def test_weights_are_as_told_and_one_kind_alone_is_refused():
    assert kto.weights(3, 5, KtoConfig(desirable=2, undesirable=0.5)) == (2, 0.5)
    with pytest.raises(BadInput, match="3 good and 0 bad answers"):
        kto.weights(3, 0, KtoConfig())


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_no_reply_meets_a_prompt_like_its_own(prompts):
    examples = [learner.Example([n], [[i]], (1.0,), 0.0) for i, n in enumerate(prompts)]
    if 2 * max(map(prompts.count, prompts)) > len(prompts):
        with pytest.raises(BadInput, match="a larger batch or more prompts"):
            kto.mismatched(examples)
        return
    strangers = kto.mismatched(examples)
    assert sorted(one.prompt[0] for one in strangers) == sorted(prompts)
    assert sorted(one.replies[0][0] for one in strangers) == list(range(len(prompts)))
    assert all(one.prompt[0] != prompts[one.replies[0][0]] for one in strangers)


def test_good_answers_become_likely_and_bad_ones_do_not(base, tmp_path):
    settings = config("kto", steps=40, lr=3e-3, batch=16, sft=0.1)
    told = LEARNERS["kto"](base, ANSWERS, settings, tmp_path)
    assert told["first"]["kl"] == pytest.approx(0, abs=1e-4)
    assert told["last"]["good_gain"] > 1 > -1 > told["last"]["bad_gain"]
    assert told["last"]["preference"] < 0.45 < told["first"]["preference"]
    assert (told["good"], told["bad"], told["desirable"]) == (8, 8, 1)


def test_a_wrong_reference_of_others_replies_stops_the_first_step(base, tmp_path, monkeypatch):
    honest, calls = kto.reference_logprobs, []

    def second_is_wrong(*given):
        calls.append(None)
        return honest(*given) + 0.5 * (len(calls) - 1)

    monkeypatch.setattr(kto, "reference_logprobs", second_is_wrong)
    with pytest.raises(SuperalignError, match=r"step 0: policy and reference differ by up to 0\.5"):
        LEARNERS["kto"](base, ANSWERS, config("kto"), tmp_path)


def test_kto_is_trls(base, tmp_path):
    written = [row(n, "sft", f"{2 * n + good}") for n in range(8) for good in (0, 1)]
    LEARNERS["sft"](base, written, config("sft", steps=8, lr=3e-3), tmp_path)
    (policy, tokenizer), (ref, _) = learner.load(tmp_path), learner.load(base)
    answers = ANSWERS[:5] + ANSWERS[10:13]  # five and three of a kind
    data = [
        {
            "prompt": [message.model_dump() for message in one.prompt],
            "completion": [{"role": "assistant", "content": one.replies[0]}],
            "label": one.rewards == (1.0,),
        }
        for one in answers
    ]
    settings = KtoConfig()
    good = sum(one["label"] for one in data)
    desirable, undesirable = kto.weights(good, 8 - good, settings)
    args = KTOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )
    given = {"train_dataset": Dataset.from_list(data), "processing_class": tokenizer}
    trainer = KTOTrainer(policy, ref, args=args, **given)
    theirs = next(iter(trainer.get_train_dataloader()))
    examples = learner.encode(answers, "reward", policy, tokenizer)
    turned = [  # TRL sets each reply under the next prompt
        learner.Example(one.prompt, other.replies, None, 0.0)
        for one, other in zip(examples, examples[-1:] + examples[:-1], strict=True)
    ]
    part, strangers = (learner.collate(e, range(8), policy.device) for e in (examples, turned))
    with torch.no_grad():
        h_B = (learner.sequence_logprobs(policy, part) - learner.sequence_logprobs(ref, part))[:, 0]
        z0 = kto.drift(policy, [strangers], learner.sequence_logprobs(ref, strangers), step=1)
        weight_B = torch.where(kto.is_good(part), desirable, undesirable)
        losses_B = weight_B * losses.kto(h_B, z0, kto.is_good(part), settings.beta)
        wanted = trainer.compute_loss(policy, theirs)
    assert good != 4 and z0 > 0.1
    torch.testing.assert_close(losses_B.mean(), wanted, rtol=0, atol=1e-5)


# IPO, rDPO, PRO.


def test_ipo_stops_where_tau_says_and_dpo_does_not(base, tmp_path):
    more = {"steps": 80, "lr": 3e-3, "sft": 0}
    ipo = LEARNERS["ipo"](base, PAIRS[:4], config("ipo", tau=0.5, batch=4, **more), tmp_path)
    dpo = LEARNERS["dpo"](base, PAIRS[:4], config("dpo", beta=0.5, batch=4, **more), tmp_path)
    assert ipo["last"]["margin"] == pytest.approx(1, abs=0.1)
    assert dpo["last"]["margin"] > 3


def test_rdpo_refuses_a_row_that_says_nothing():
    wrong = row(1, "pref", "2", "3", flip_prob=0.5)
    with pytest.raises(BadInput, match=r"r/e1/k: flip_prob is 0\.5.*; leave the row out, audit"):
        LEARNERS["rdpo"](None, [*PAIRS, wrong], config("rdpo"), None)  # type: ignore[arg-type]


def test_pro_refuses_a_row_that_ranks_nothing():
    wrong = row(1, "rank", "2", "3", "4", rewards=(1, 1, 1))
    with pytest.raises(BadInput, match=r"r/e1/k: all 3 replies have the same reward"):
        LEARNERS["pro"](None, [*RANKS, wrong], config("pro"), None)  # type: ignore[arg-type]


def test_pro_weighs_the_best_reply_whole_and_by_the_square_of_its_rivals(base, tmp_path):
    told = LEARNERS["pro"](base, RANKS, config("pro", steps=1), tmp_path)["first"]
    assert told["sft"] == pytest.approx(-4 * told["chosen_logprob"])
    assert told["loss"] == pytest.approx(told["preference"] + 0.05 * told["sft"])


def test_pro_ranks(base, tmp_path):
    told = LEARNERS["pro"](base, RANKS, config("pro", steps=40, lr=3e-3), tmp_path)
    assert told["last"]["accuracy"] == 1
    assert told["last"]["margin"] > told["first"]["margin"] + 0.5
    assert told["last"]["preference"] < told["first"]["preference"]


# Reading sequences.


@given(st.lists(st.integers(2, 3000), min_size=1, max_size=60))
def test_groups_of_like_length_hold_all_and_waste_little(lengths):
    groups = reading.like_lengths(lengths)
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[n] for n in group)
        assert sum(longest - lengths[n] for n in group) <= reading.PASS


def test_how_rows_are_read_changes_nothing(base, monkeypatch):
    model, tokenizer = learner.load(base)
    for rows in (PAIRS, RANKS, ANSWERS):
        examples = learner.encode(rows, rows[0].kind, model, tokenizer)
        batch, passes, read = learner.collate(examples, range(8), model.device), [], []
        with counted(model, passes), torch.no_grad():
            for allowed, shared in ((10_000, True), (0, True), (10_000, False), (20, False)):
                monkeypatch.setattr(reading, "PASS", allowed)
                monkeypatch.setattr(reading, "shares_prompts", lambda _, shared=shared: shared)
                passes.append(0)
                read.append(learner.sequence_logprobs(model, batch))
        assert passes[0] == passes[2] == 1
        assert passes[1] > 1
        for logprobs_B_K in read[1:]:
            torch.testing.assert_close(logprobs_B_K, read[0], rtol=1e-5, atol=1e-5)


@contextmanager
def counted(model, passes):
    """Counts forward passes into the last of `passes`."""

    def count(*_):
        passes[-1] += 1

    hook = model.register_forward_pre_hook(count)
    yield
    hook.remove()


def test_replies_share_a_prompt_only_where_a_mask_can_part_them(base):
    model, _ = learner.load(base)
    assert reading.shares_prompts(model)
    for name, other in (("_attn_implementation", "eager"), ("sliding_window", 8)):
        model, _ = learner.load(base)
        setattr(model.config, name, other)
        assert not reading.shares_prompts(model)


def test_long_replies_to_a_short_prompt_are_read_apart(base):
    model, _ = learner.load(base)

    def lines(prompt, reply):
        return len(reading._lines(0, learner.Example(prompt, [reply, reply], None, 0.0), model))

    assert lines([5] * 40, [6] * 5) == 1
    assert lines([5] * 4, [6] * 400) == 2
