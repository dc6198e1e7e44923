"""GenRM-CoT: which critiques become rationales, what is learnt of them, and how they vote."""

import json
import random
from statistics import fmean

import pytest
import torch

from superalign.learners import genrm, learner, scoring
from superalign.learners.config import GenrmConfig
from superalign.learners.rationales import Rationale, stored
from superalign.learners.rows import rows
from superalign.store.errors import BadInput
from superalign.store.records import Critique, Label, Message, Row

NO_CRITIQUE = "no critique agrees with the label of 1 of 2 replies, wrong"


pytestmark = pytest.mark.usefixtures("one_thread")


def asked(n, role="question"):
    prompt = [Message(role=role, content=f"{n}+{n}")]
    return tuple(prompt if role == "user" else [*prompt, Message(role="answer", content="")])


def row(n, reply, right, role="question"):
    return Row(
        kind="reward",
        seat="learner",
        prompt=asked(n, role),
        replies=(reply,),
        rewards=(float(right),),
        token_ids=(60, 2),
        source="ai",
        judge="critic",
        turns=(f"r/e{n}/k",),
    )


def word(n, first):
    """A word with an `a` in front, which is right, or with a `b`."""
    return first + "".join(random.Random(n).choices("cdefgh", k=n % 4))


JUDGED = [row(n, word(n, first), first == "a") for n in range(12) for first in "ab"]


def criticise(prompts, replies):
    """`ok` of an `a`; of a `b` sometimes one line, sometimes another."""
    ok, one, two = Rationale("ok", True), Rationale("1", False), Rationale("2", False)
    return [[ok] if reply.startswith("a") else [one, two] for reply in replies]


def config(**more):
    return GenrmConfig(**{"steps": 60, "batch": 16, "lr": 1e-2, "max_tokens": 6, **more})


@pytest.fixture(scope="module")
def told(base, tmp_path_factory):
    """What is told of a verifier that was taught rationales, and its folder."""
    out = tmp_path_factory.mktemp("cot")
    return genrm.learn(base, JUDGED, config(votes=5), out, explain=criticise), out


@pytest.fixture(scope="module")
def policy(told):
    return learner.load(told[1])


def share_of_yes(model, tokenizer, prompt, reply, rationale):
    """By hand: the whole text is read twice, once with each verdict behind it."""
    messages = scoring.asked_again(prompt, reply, rationale)
    ids, found = scoring.encode_prompt(tokenizer, messages), []
    for verdict in ("yes", "no"):
        whole = [*ids, *tokenizer.encode(verdict), 2]
        logprobs_L_V = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        at = range(len(ids), len(whole))
        found.append(sum(logprobs_L_V[i - 1, whole[i]].item() for i in at))
    return torch.tensor(found).softmax(0)[0].item()


# What is learnt.


@pytest.mark.parametrize("role", ["question", "user"])
def test_critiques_that_agree_with_the_label_are_learnt_as_often_as_they_were_said(role):
    right, wrong = row(1, "2", True, role), row(2, "5", False, role)
    says = {
        "2": [Rationale("ok", True), Rationale("1", False), Rationale("well, ok", True)],
        "5": [Rationale("1", False), Rationale("1", False), Rationale("ok", True)],
    }
    found = genrm.explained([right, wrong], lambda prompts, replies: [says[r] for r in replies])
    assert [one.replies[0] for one in found] == ["ok", "well, ok", "1", "1"]
    assert [one.rewards for one in found] == [(1.0,), (1.0,), (0.0,), (0.0,)]
    assert {one.prompt for one in found[:2]} == {scoring.asked_about(right.prompt, "2", "critique")}
    assert all(one.token_ids is None for one in found)


def test_a_verdict_stands_behind_its_rationale_and_both_are_balanced():
    taught = genrm.explained(JUDGED[:4], criticise)
    verdicts, thoughts = genrm.balanced(taught), genrm.balanced(taught, lambda one: one)
    assert [one.replies[0] for one in verdicts] == ["yes", "no"] * 4
    for verdict, thought in zip(verdicts, thoughts, strict=True):
        assert [message.role for message in verdict.prompt] == [
            "question", "answer", "critique", "verdict",
        ]  # fmt: skip
        assert verdict.prompt[2].content == thought.replies[0]
        assert verdict.prompt[:2] == thought.prompt[:2]
        assert (verdict.replies == ("yes",)) == (thought.replies == ("ok",))


def test_a_chat_model_is_asked_for_the_verdict_after_its_critique():
    messages = scoring.asked_again(asked(1, "user"), "2", "fine\nCritique: ok")
    assert [message.role for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [messages[i].content for i in (1, 3)] == ["2", "fine\nCritique: ok"]
    assert [messages[i].content for i in (2, 4)] == [scoring.ASKED[k] for k in scoring.ASKED]


def test_labels_that_no_critique_explains_are_named():
    def kind(prompts, replies):
        return [[Rationale("ok", True)] for _ in replies]

    with pytest.raises(BadInput, match=NO_CRITIQUE):
        genrm.explained(JUDGED[:2], kind)
    with pytest.raises(BadInput, match=r"r/e0/k: rewards are \(0\.5,\)"):
        genrm.explained([JUDGED[0].model_copy(update={"rewards": (0.5,)})], kind)


def test_how_a_step_is_split_changes_nothing(base, tmp_path):
    logs = []
    for micro_batch in (16, 5):
        settings = config(steps=2, micro_batch=micro_batch)
        genrm.learn(base, JUDGED, settings, tmp_path, logs.append, criticise)
    assert {"verdict", "rationale", "solution"} < logs[0].keys()
    for whole, parts in zip(logs[:2], logs[2:], strict=True):
        wanted = whole["verdict"] + whole["rationale"] + 0.3 * whole["solution"]
        assert whole["loss"] == pytest.approx(wanted, rel=1e-5)
        for name in ("loss", "verdict", "rationale", "solution", "grad_norm"):
            assert parts[name] == pytest.approx(whole[name], rel=1e-3), name


# What it says then.


def test_the_folder_says_that_rationales_vote(told):
    metrics, out = told
    assert metrics["rationales"] == 36
    assert metrics["last"]["rationale"] < 0.5 * metrics["first"]["rationale"]
    kept = {"kind": "genrm", "votes": 5, "max_tokens": 6}
    assert json.loads((out / scoring.TOLD).read_text()) == kept
    prompts, replies = [asked(99), asked(98)], ["acc", "bcc"]
    found = scoring.load_scorer(out)(prompts, replies)
    assert found == scoring.vote(*learner.load(out), 5, 6)(prompts, replies)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] > 0.8 > 0.2 > found[1]


def test_the_folder_says_that_none_votes(base, tmp_path):
    genrm.learn(base, JUDGED, config(steps=2), tmp_path)
    found = scoring.load_scorer(tmp_path)([asked(9)], ["acc"])
    assert found == scoring.verdict(*learner.load(tmp_path))([asked(9)], ["acc"])


def test_a_score_is_the_mean_share_of_yes_behind_the_rationales(policy):
    model, tokenizer = policy
    prompts, replies = [asked(40), asked(41), asked(42)], ["bc", "af", "gh"]
    said = scoring.rationales(model, tokenizer, prompts, replies, 9, 6)
    assert any(len(set(texts)) > 1 for texts in said)  # or there is no mean to speak of
    scores = scoring.vote(model, tokenizer, 9, 6)(prompts, replies)
    for prompt, reply, texts, score in zip(prompts, replies, said, scores, strict=True):
        shares = [share_of_yes(model, tokenizer, prompt, reply, t) for t in texts if t is not None]
        assert score == pytest.approx(fmean(shares), rel=1e-4)


def test_one_vote_is_that_of_the_likeliest_rationale(policy):
    model, tokenizer = policy
    (text,) = scoring.writer(model, tokenizer, max_tokens=6)([asked(40)], ["bc"])
    (score,) = scoring.vote(model, tokenizer, 1, 6)([asked(40)], ["bc"])
    assert score == pytest.approx(share_of_yes(model, tokenizer, asked(40), "bc", text), rel=1e-4)


def test_what_stands_beside_a_reply_changes_neither_rationales_nor_score(policy, monkeypatch):
    model, tokenizer = policy
    prompts, replies = [asked(n) for n in range(50, 56)], [word(n, "abg"[n % 3]) for n in range(6)]
    score_all = scoring.vote(model, tokenizer, 4, 6)
    scores = score_all(prompts, replies)
    said = scoring.rationales(model, tokenizer, prompts, replies, 4, 6)
    assert score_all(prompts[::-1], replies[::-1])[::-1] == pytest.approx(scores, rel=1e-5)
    monkeypatch.setattr(scoring, "AT_ONCE", 1)
    for prompt, reply, score, texts in zip(prompts, replies, scores, said, strict=True):
        assert scoring.rationales(model, tokenizer, [prompt], [reply], 4, 6) == [texts]
        assert score_all([prompt], [reply]) == pytest.approx([score], rel=1e-5)


def test_a_rationale_without_an_end_has_no_vote(policy):
    model, tokenizer = policy
    unended = scoring.vote(model, tokenizer, 3, 1)  # `1` needs an end token
    assert unended([asked(40)], ["bc"]) == [None]
    wanted = "max_tokens of a critique: 64, but beside the longest prompt the critic has room for"
    with pytest.raises(BadInput, match=wanted):
        scoring.vote(model, tokenizer, 3)([asked(40)], ["bc"])


# Where rationales come from.


def test_a_critic_in_a_folder_explains(base, told, tmp_path):
    settings = config(steps=2, rationales=3, critic=str(told[1]))
    metrics = genrm.learn(base, JUDGED, settings, tmp_path)
    assert 24 <= metrics["rationales"] <= 72  # of 72 that were drawn
    again = genrm.learn(told[1], JUDGED, config(steps=2, rationales=3), tmp_path)
    assert again["rationales"] == metrics["rationales"]  # it is its own critic


def test_stored_critiques_explain_the_answers_that_they_are_about(make):
    asked_for = (asked(2)[0].hash,)
    answers = [
        make.turn(f"1:answer:{n}/learner:00", text=text, seat="learner", messages=asked_for)
        for n, text in enumerate(["4", "5"])
    ]
    said = [
        make.turn(f"2:look:{n}/critic:00", kind="critique", text=text, seat="critic", **more)
        for n, (text, more) in enumerate(
            [("1", {}), ("ok", {}), ("ok", {}), ("1", {}), ("1, as", {"finish": "length"})]
        )
    ]
    faults = zip(said, (0, 0, 1, 1, 1), (1, None, None, 1, 1), strict=True)
    critiques = [Critique(turn=s.key, about=answers[a].key, fault=f) for s, a, f in faults]
    ended = make.episode(*answers, *said, critiques=tuple(critiques))
    place = {"run": "run", "episode": "e", "source": "human", "author": "h", "why": "audit"}
    labels = [
        Label.model_validate({**place, "turn": answer.key, "correct": answer.text == "4"})
        for answer in answers
    ]
    taught = rows(ended, prompt_of=lambda turn: asked(2), labels=labels)
    explain = stored([ended], lambda turn: asked(2))
    judged = [one for one in taught if one.kind == "reward"]
    assert explain([asked(2), asked(3)], ["4", "4"]) == [
        [Rationale("1", False), Rationale("ok", True)], [],
    ]  # fmt: skip
    found = genrm.explained(judged, explain)
    assert [(one.replies[0], one.rewards) for one in found] == [("ok", (1.0,)), ("1", (0.0,))]
