"""What transcripts become: which rows, from which turns, on whose word, and how far believed."""

import pytest

from superalign.learners import FlipRates, judgements, measure_flips
from superalign.learners.rows import pair_flip, rows
from superalign.store.errors import BadInput
from superalign.store.records import (
    Critique,
    Episode,
    Label,
    Message,
    Question,
    Task,
    Turn,
    Verdict,
)

FLIPS = FlipRates(accepted=0.2, rejected=0.1)


def turn(key, seat, text, asked="ask", **more):
    kind = {"learner": "answer", "critic": "critique"}.get(seat, "question")
    policy = f"{seat}@1"
    return Turn(
        key=key,
        seat=seat,
        kind=kind,
        text=text,
        policy=policy,
        messages=(asked,),
        sampling={},
        seed=0,
        **more,
    )


def episode(*answers, **more):
    """One learner turn and one critic turn per (text, fault) or (text, fault, prompt)."""
    turns, critiques = [], []
    for n, (text, fault, *asked) in enumerate(answers):
        turns.append(turn(f"1:answer:0/learner:{n}", "learner", text, *asked))
        turns.append(turn(f"2:criticise:0/critic:{n}", "critic", str(fault or "ok")))
        critiques.append(Critique(turn=turns[-1].key, about=turns[-2].key, fault=fault))
    question = Question(text="2+2")
    base = {
        "run": "r", "id": "e", "index": 0, "iteration": 2, "protocol": "critique", "params": {},
        "protocol_hash": "", "task": Task(question=question), "seed": 0, "status": "done",
        "question": question, "turns": tuple(turns), "critiques": tuple(critiques),
    }  # fmt: skip
    return Episode(**{**base, **more})


def label(n, correct, why="audit", source="human", of="e"):
    key = f"1:answer:0/learner:{n}"
    return Label.model_validate(
        {
            "run": "r",
            "episode": of,
            "turn": key,
            "correct": correct,
            "source": source,
            "author": "anna",
            "why": why,
        }
    )


def prompt_of(turn):
    return (Message(role="question", content=turn.messages[0]),)


def made(kind, episode, **more):
    return [row for row in rows(episode, prompt_of=prompt_of, **more) if row.kind == kind]


def texts(found):
    return [row.replies for row in found]


def test_a_pair_says_where_it_comes_from():
    (pair,) = made("pref", episode(("4", None), ("5", 1)), flips=FLIPS)
    assert pair.replies == ("4", "5")
    assert pair.prompt == (Message(role="question", content="ask"),)
    assert (pair.source, pair.judge, pair.seat, pair.iteration) == ("ai", "critic@1", "learner", 2)
    assert pair.turns == (
        "r/e/1:answer:0/learner:0",
        "r/e/2:criticise:0/critic:0",
        "r/e/1:answer:0/learner:1",
        "r/e/2:criticise:0/critic:1",
    )


def test_a_pair_is_flipped_only_when_both_judgements_err():
    assert pair_flip(0.2, 0.1) == pytest.approx(0.02 / (0.02 + 0.72))
    assert pair_flip(0.5, 0.3) == pytest.approx(0.3)  # an accepted coin says nothing
    assert pair_flip(0.0, 0.3) == 0.0  # if it is flipped, the accepted one must be wrong
    assert pair_flip(1.0, 0.0) == 0.5  # always a tie
    (pair,) = made("pref", episode(("4", None), ("5", 1)), flips=FLIPS)
    assert pair.flip_prob == pytest.approx(pair_flip(0.2, 0.1))


def test_without_an_audit_the_critic_is_taken_at_its_word():
    assert {row.flip_prob for row in rows(episode(("4", None), ("5", 1)), prompt_of=prompt_of)} == {
        0
    }


def test_equal_texts_are_one_answer_and_make_no_pair():
    said = episode(("4", None), ("4", None), ("5", 1), ("5", 2))
    assert texts(made("pref", said)) == [("4", "5")]
    assert texts(made("sft", said)) == [("4",)]


def test_a_text_that_is_both_accepted_and_rejected_is_left_out_until_a_label_settles_it():
    said = episode(("4", None), ("4", 1), ("5", 1))
    assert texts(rows(said, prompt_of=prompt_of)) == [("5",)]
    (pair,) = made("pref", said, labels=[label(1, True)])
    assert pair.replies == ("4", "5")
    assert "r/e/1:answer:0/learner:1" in pair.turns  # the one that was labelled


def test_every_judged_answer_has_its_reward_and_the_tokens_that_were_sampled():
    said = episode(("4", None, "hint"), ("5", 1))
    turns = tuple(t.model_copy(update={"token_ids": (7, len(t.key))}) for t in said.turns)
    said = said.model_copy(update={"turns": turns})
    good, bad = made("reward", said, flips=FLIPS)
    assert (good.replies, good.rewards, good.flip_prob) == (("4",), (1.0,), 0.2)
    assert (bad.replies, bad.rewards, bad.flip_prob) == (("5",), (0.0,), 0.1)
    assert good.prompt == (Message(role="question", content="hint"),)
    assert good.token_ids == turns[0].token_ids
    exact = {turns[0].key: 0.25, turns[2].key: -1.0}
    assert [row.rewards for row in made("reward", said, rewards=exact)] == [(0.25,), (-1.0,)]


def test_unjudged_and_cut_off_answers_are_not_wrong_answers():
    said = episode(("4", None), ("5", 1), ("6", 1))
    cut = said.turns[2].model_copy(update={"finish": "length"})
    unjudged = said.model_copy(
        update={"turns": (*said.turns[:2], cut, *said.turns[3:]), "critiques": said.critiques[:2]}
    )
    assert made("pref", unjudged) == []


def test_pairs_use_new_answers_first_and_are_bounded():
    said = episode(("4", None), ("04", None), ("5", 1), ("6", 1))
    wanted = [("4", "5"), ("4", "6"), ("04", "5"), ("04", "6")]
    assert texts(made("pref", said)) == wanted
    assert texts(made("pref", said, max_pairs=2)) == wanted[:2]


def test_a_revision_stands_against_the_first_answer_under_its_prompt():
    said = episode(("5", 1), ("4", None, "ask and critique"))
    (pair,) = made("pref", said)
    assert pair.replies == ("4", "5")
    assert pair.prompt[0].content == "ask"
    (accepted,) = made("sft", said)
    assert accepted.prompt[0].content == "ask"


def test_answers_to_two_revision_prompts_are_never_compared():
    said = episode(("5", 1), ("6", 1, "about 5"), ("4", None, "about 6"))
    assert texts(made("pref", said)) == [("4", "5")]
    beside = episode(("5", 1), ("6", 1, "about 5"), ("4", None, "about 5"))
    assert [(row.replies, row.prompt[0].content) for row in made("pref", beside)] == [
        (("4", "5"), "ask"),
        (("4", "6"), "about 5"),
    ]


def test_a_good_answer_is_not_compared_with_a_worse_revision():
    assert made("pref", episode(("4", None), ("5", 1, "about 4"))) == []


def test_a_human_overrides_the_critic():
    said = episode(("4", 1), ("5", None))
    labels = [label(0, True), label(1, False)]
    flips = FLIPS.model_copy(update={"human": 0.05})
    (pair,) = made("pref", said, labels=labels, flips=flips)
    assert pair.replies == ("4", "5")
    assert (pair.source, pair.judge) == ("human", "anna")
    assert pair.flip_prob == pytest.approx(pair_flip(0.05, 0.05))
    assert pair.turns == ("r/e/1:answer:0/learner:0", "r/e/1:answer:0/learner:1")
    assert judgements(said, labels, flips)["1:answer:0/learner:0"].error == 0.05


def test_a_mixed_pair_is_no_better_than_its_worst_source():
    (pair,) = made("pref", episode(("4", None), ("5", None)), labels=[label(1, False)], flips=FLIPS)
    assert (pair.source, pair.judge) == ("ai", "critic@1 + anna")
    assert pair.flip_prob == 0.0


def test_people_who_contradict_each_other_settle_nothing():
    said = episode(("4", None), ("5", 1))
    two = [label(1, True), label(1, False).model_copy(update={"author": "ben"})]
    assert set(judgements(said, two)) == {"1:answer:0/learner:0"}
    assert measure_flips([said], two).n_rejected == 0
    same = [label(1, True), label(1, True).model_copy(update={"author": "ben"})]
    assert judgements(said, same)["1:answer:0/learner:1"].judge == "anna"
    assert measure_flips([said], same).n_rejected == 1


def played(by, source, *answers):
    """An episode in whose critic's seat somebody else sits."""
    said = episode(*answers)
    turns = [
        t.model_copy(update={"source": source, "policy": by}) if t.seat == "critic" else t
        for t in said.turns
    ]
    return said.model_copy(update={"turns": tuple(turns)})


def test_a_person_in_the_critic_s_seat_gives_human_rows():
    said = played("anna", "human", ("4", None), ("5", 1))
    flips = FLIPS.model_copy(update={"human": 0.05})
    (pair,) = made("pref", said, flips=flips)
    assert (pair.source, pair.judge) == ("human", "anna")
    assert pair.flip_prob == pytest.approx(pair_flip(0.05, 0.05))
    assert "r/e/2:criticise:0/critic:0" in pair.turns
    assert measure_flips([said], [label(0, True)]).n_accepted == 0  # no critic was audited


def test_an_oracle_in_the_critic_s_seat_trains_controls_only():
    said = played("truth", "oracle", ("4", None), ("5", 1))
    with pytest.raises(BadInput, match="control"):
        rows(said, prompt_of=prompt_of)
    (pair,) = made("pref", said, control=True)
    assert pair.source == "oracle"


def test_labels_of_other_episodes_do_not_count():
    assert texts(made("pref", episode(("4", None), ("5", 1)), labels=[label(0, False, of="f")]))


def test_the_oracle_trains_controls_only():
    said, labels = episode(("4", None), ("5", None)), [label(1, False, source="oracle")]
    with pytest.raises(BadInput, match="control"):
        rows(said, prompt_of=prompt_of, labels=labels)
    (pair,) = made("pref", said, labels=labels, control=True)
    assert pair.source == "oracle"


@pytest.mark.parametrize(
    "fate",
    [
        {"status": "failed"},
        {"status": "waiting"},
        {"verdict": Verdict(value="invalid", seat="critic")},
    ],
)
def test_failed_and_invalid_episodes_give_nothing(fate):
    assert rows(episode(("4", None), ("5", 1), **fate), prompt_of=prompt_of) == []


def test_a_ranking_needs_rewards_that_differ():
    said = episode(("4", None), ("5", 1), ("6", 2))
    keys = [turn.key for turn in said.by("learner")]
    assert made("rank", said) == []
    assert made("rank", said, rewards=dict.fromkeys(keys, 1.0)) == []
    (ranking,) = made("rank", said, rewards=dict(zip(keys, (0.5, 0.1, 0.9), strict=True)))
    assert (ranking.replies, ranking.rewards) == (("6", "4", "5"), (0.9, 0.5, 0.1))


def test_flip_rates_are_posterior_means_over_the_audit():
    said = [episode(("4", None), ("5", None), ("6", 1), id=f"e{n}") for n in range(4)]
    labels = [label(0, True, of=f"e{n}") for n in range(4)]
    labels += [label(1, False, of="e0", why="random"), label(2, True, of="e1")]
    labels += [label(2, True, of="e2", why="least_confident")]
    labels += [label(2, True, of="e3", source="oracle")]
    flips = measure_flips(said, labels, human=0.01)
    assert (flips.n_accepted, flips.n_rejected) == (5, 1)
    assert flips.accepted == pytest.approx((1 + 1) / (5 + 2))
    assert flips.rejected == pytest.approx((1 + 1) / (1 + 2))
    assert flips.human == 0.01
    assert measure_flips([], []).accepted == 0.5


def test_rows_are_the_same_every_time():
    said = episode(("4", None), ("04", None), ("5", 1), ("6", 1))
    first, again = (rows(said, prompt_of=prompt_of, flips=FLIPS) for _ in range(2))
    assert [row.id for row in first] == [row.id for row in again]
    assert len({row.id for row in first}) == len(first)
