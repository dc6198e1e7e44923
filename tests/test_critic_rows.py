"""A critic learns from people's labels of the answers that it criticised."""

from types import SimpleNamespace

import pytest

from superalign.learners import FlipRates
from superalign.learners.critics import critic_rows
from superalign.scenarios.asking import Asking
from superalign.store.records import Critique, Episode, Label, Message, Question, Status, Task, Turn

SAID = {
    # critique -> (about, text, fault)
    "c1": ("a1", "ok", None),
    "c2": ("a1", "1", 1),
    "c3": ("a1", "2", 2),
    "c4": ("a2", "3", 3),
    "c5": ("a3", "ok", None),
}


def turn(key, seat, text, asked, **more):
    base = {"kind": "critique" if seat == "critic" else "answer", "policy": f"{seat}-1"}
    given = {"messages": (asked,), "sampling": {}, "seed": 0, **more}
    return Turn(key=key, seat=seat, text=text, **base, **given)


def episode(status: Status = "done", **more):
    answers = [turn(key, "learner", key, "question") for key in ("a1", "a2", "a3")]
    critics = [
        turn(key, "critic", text, f"asked of {about}", **more.get(key, {}))
        for key, (about, text, _) in SAID.items()
    ]
    critiques = tuple(
        Critique(turn=key, about=about, fault=fault) for key, (about, _, fault) in SAID.items()
    )
    question = Question(text="2+2")
    return Episode(
        run="r", id="e", index=0, iteration=2, protocol="critique", params={}, protocol_hash="",
        task=Task(question=question), seed=0, status=status, question=question,
        turns=(*answers, *critics), critiques=critiques,
    )  # fmt: skip


def label(about, correct, source="human", of="e", author="ann"):
    told = {"turn": about, "correct": correct, "source": source, "author": author}
    return Label.model_validate({"run": "r", "episode": of, "why": "audit", **told})


def prompt_of(turn):
    return (Message(role="question", content=turn.messages[0]),)


def taught(*labels, of=None, **more):
    found = critic_rows(of or episode(), prompt_of=prompt_of, labels=labels, **more)
    return [(row.kind, row.replies, row.rewards) for row in found]


def test_what_agrees_is_copied_and_set_above_what_does_not():
    found = critic_rows(episode(), prompt_of=prompt_of, labels=[label("a1", False)])
    assert [(row.kind, row.replies, row.rewards) for row in found] == [
        ("reward", ("1",), (1.0,)),
        ("sft", ("1",), None),
        ("reward", ("2",), (1.0,)),
        ("sft", ("2",), None),
        ("reward", ("ok",), (0.0,)),
        ("pref", ("1", "ok"), None),
        ("pref", ("2", "ok"), None),
    ]
    pair = found[-1]
    assert pair.turns == ("r/e/c3", "r/e/c1", "r/e/a1")
    assert (pair.seat, pair.source, pair.judge, pair.iteration) == ("critic", "human", "ann", 2)
    assert pair.prompt == (Message(role="question", content="asked of a1"),)


def test_critiques_of_other_answers_are_no_pair():
    kinds = [kind for kind, *_ in taught(label("a1", True), label("a2", True))]
    assert kinds.count("pref") == 2  # ok over 1 and over 2, not over 3, which was said of a2
    assert taught(label("a3", True)) == [("reward", ("ok",), (1.0,)), ("sft", ("ok",), None)]


def test_the_label_may_be_wrong_as_often_as_people_are():
    flips = FlipRates(accepted=0.3, rejected=0.3, human=0.05)
    found = critic_rows(episode(), prompt_of=prompt_of, labels=[label("a1", False)], flips=flips)
    assert {row.flip_prob for row in found} == {0.05}


@pytest.mark.parametrize(
    "labels",
    [
        [],
        [label("a1", True, of="another")],
        [label("a1", True, source="oracle")],
        [label("a1", True), label("a1", False, author="bob")],
    ],
    ids=["none", "of another episode", "of the oracle", "contradictory"],
)
def test_no_label_no_row(labels):
    assert taught(*labels) == []


def test_what_failed_or_was_cut_off_teaches_nothing():
    assert taught(label("a1", True), of=episode(status="failed")) == []
    cut = episode(c5={"finish": "length"})
    assert taught(label("a3", True), of=cut) == []


def test_equal_critiques_of_one_prompt_are_one():
    same = SAID | {"c6": ("a3", "ok", None)}
    turns = [turn(k, "critic", text, f"asked of {about}") for k, (about, text, _) in same.items()]
    critiques = tuple(Critique(turn=k, about=a, fault=f) for k, (a, _, f) in same.items())
    twice = episode().model_copy(update={"critiques": critiques})
    twice = twice.model_copy(update={"turns": (*twice.turns[:3], *turns)})
    assert taught(label("a3", True), of=twice) == taught(label("a3", True))


def test_a_critic_is_held_to_the_audits_of_its_newest_version():
    def spoken(version, correct):
        answer = turn("a", "learner", "4", "question")
        said = turn("c", "critic", "ok", "asked").model_copy(update={"policy": version})
        found = Critique(turn="c", about="a", fault=None)
        id = f"{version}-{correct}"
        told = {"id": id, "turns": (answer, said), "critiques": (found,)}
        return episode().model_copy(update=told), label("a", correct, of=id)

    played = [spoken("tiny", False), spoken("critic-1", True)]
    store = SimpleNamespace(
        labels=lambda run: [audit for _, audit in played],
        episodes=lambda run, ids: [one for one, _ in played],
    )
    scenario = SimpleNamespace(
        learning={"critic": None},
        updates="simultaneous",
        cast={"critic": SimpleNamespace(model="tiny")},
        labels=SimpleNamespace(human=None),
        tested="learner",
    )
    asking = Asking("r", scenario, store)  # pyright: ignore[reportArgumentType]
    assert asking.flips(1).accepted == pytest.approx(2 / 3)  # one acceptance, which was wrong
    assert asking.flips(2).accepted == pytest.approx(1 / 3)  # one, which was right
