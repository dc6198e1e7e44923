"""Consensus and examinations: who agrees, who contradicts itself, and who may hear whom."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners.rows import rows as rows_of
from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.cross_examination import cross_examination
from superalign.protocols.examination import contradictions, examination
from superalign.protocols.multi_agent_debate import measured, multi_agent_debate, rounds
from superalign.protocols.readings import (
    final,
    flags,
    matthews,
    most,
    parse_right,
    precision_recall,
    result,
    settles,
)
from superalign.store import Question, Unreadable


@pytest.mark.parametrize(
    ("name", "params", "calls"),
    [
        ("multi_agent_debate", {}, 6),
        ("multi_agent_debate", {"agents": 2, "updates": 0}, 2),
        ("multi_agent_debate", {"agents": 4, "updates": 3}, 16),
        ("cross_examination", {}, 11),
        ("cross_examination", {"follow_ups": 0}, 5),
        ("cross_examination", {"follow_ups": 1, "examinations": 3, "answers": 2}, 40),
        ("examination", {}, 8),
        ("examination", {"questions": 3, "copies": 4}, 17),
    ],
)
async def test_it_is_sound_and_asks_so_often(name, params, calls):
    protocol = load_protocol(name)
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


@pytest.mark.parametrize("name", ["multi_agent_debate", "cross_examination", "examination"])
async def test_the_order_of_replies_changes_no_transcript(name, setting, play, make):
    protocol = load_protocol(name)
    words = {"follow_up": "yes", "verdict": "right", "answer": "4"}

    def reply(request: Any) -> str:
        return words.get(request.view.ask.kind, f"Answer: {request.seed % 3}")

    seen = set()
    for concurrency in (1, 64):
        script = make.jittered(reply, concurrency)
        stage = setting(protocol, **dict.fromkeys(protocol.seats, script))
        ids = (f"{concurrency}-{i}" for i in range(6))  # the same seeds, as other episodes
        plans = [p.model_copy(update={"id": id}) for p, id in zip(make.plans(6), ids, strict=True)]
        ended = await play(stage, plans, concurrency)
        seen.add(tuple(episode.transcript_hash for episode in ended))
    assert len(seen) == 1


def prompt_of(store: Any) -> Any:
    return lambda turn: tuple(store.messages(turn.messages)[key] for key in turn.messages)


def learnt(episode: Any, store: Any) -> list[Any]:
    assert multi_agent_debate.rule is not None
    return list(multi_agent_debate.rule(episode, "learner", prompt_of(store)))


# What replies say.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4", "4"),
        ("12+34;2+4=6;46", "46"),
        ("first\n#### 1,234", "1234"),
        ("Answer: 5\nno, wait\nAnswer: $1,234,567.", "1234567"),
        ("so\nAnswer: New  York", "new york"),
        ("a list: 1,23", "a list: 1,23"),
    ],
)
def test_the_result_of_an_answer_is_its_end(text, found):
    assert final(text) == found


@pytest.mark.parametrize("text", ["", "####", "thinking;", "Answer:  ."])
def test_an_answer_without_a_result_is_unreadable(text):
    with pytest.raises(Unreadable, match="expected the result on the last line"):
        final(text)


def test_with_choices_the_result_is_the_number_of_one():
    question = Question(choices=("Yes", "No"))
    assert [result(question, text) for text in ("Answer: (1)", "so\nno", "0.")] == ["1", "1", "0"]
    for text in ("2", "perhaps"):
        with pytest.raises(Unreadable, match="from 0 to 1"):
            result(question, text)


@pytest.mark.parametrize(
    ("choices", "right", "found"),
    [
        (("46", "36"), True, "46"),
        (("46", "36"), False, "36"),
        (("46", "36", "56"), False, None),
        ((), True, "4+2=6;4;46"),
        ((), False, None),
    ],
)
def test_a_wrong_answer_leaves_the_other_one_of_two(choices, right, found, make):
    answer = make.turn(text="4+2=6;4;46")
    assert settles(Question(choices=choices), answer, right) == found


def test_a_word_on_an_answer_is_right_or_wrong_and_nothing_else():
    said = ["right", "It looks wrong.\nVerdict: Right.", "Verdict: **wrong**"]
    assert [parse_right(text) for text in said] == [True, True, False]
    for text in ("", "not right", "right or wrong", "0"):
        with pytest.raises(Unreadable, match="expected right or wrong"):
            parse_right(text)


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_most_is_the_only_mode_and_its_share(votes):
    best, share = most(votes)
    tops = [name for name, n in Counter(votes).items() if n == max(Counter(votes).values())]
    assert best == (tops[0] if len(tops) == 1 else None)
    assert share == votes.count(tops[0]) / len(votes)


def test_figures_of_flags_by_hand():
    """3 true flags, 1 false one, 2 missed faults, 4 rightly passed."""
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    assert precision_recall(pairs) == (3 / 4, 3 / 5)
    assert matthews(pairs) == pytest.approx((3 * 4 - 1 * 2) / (4 * 5 * 5 * 6) ** 0.5)
    assert matthews([(True, True), (True, False)]) is None
    assert precision_recall([(False, False)]) == (None, None)


# multi_agent_debate


def copies(*first: str, stubborn: bool = False) -> Any:
    """Copies that give these first answers, then follow what most of those they read say."""

    def reply(request: Any) -> str:
        about = request.view.ask.about
        if not about:
            return first[int(request.key[-2:])]
        return about[0].text if stubborn else Counter(t.text for t in about).most_common(1)[0][0]

    return reply


async def test_copies_that_listen_come_to_agree(setting, play):
    stage = setting(multi_agent_debate, learner=copies("4", "4", "5"))
    (ended,) = await play(stage)
    assert (ended.verdict.answer, ended.verdict.confidence) == ("4", 1.0)
    assert (ended.verdict.turn, ended.rewards) == (None, {"learner": 1.0})
    assert measured(ended) == {
        "accuracy": [pytest.approx(2 / 3), 1.0],
        "wrong_to_right": 1,
        "right_to_wrong": 0,
        "distinct": [2, 1],
    }


async def test_agreeing_is_not_being_right(setting, play):
    (ended,) = await play(setting(multi_agent_debate, learner=copies("5", "5", "4")))
    assert (ended.verdict.confidence, ended.rewards) == (1.0, {"learner": 0.0})
    assert measured(ended)["right_to_wrong"] == 1


async def test_copies_that_split_settle_nothing_and_teach_nothing(setting, play, store):
    stage = setting(multi_agent_debate, {"agents": 2}, learner=copies("4", "5", stubborn=True))
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.verdict.answer) == ("split", None)
    assert ended.rewards == {"learner": None}
    assert learnt(ended, store) == []


async def test_each_copy_reads_its_own_latest_answer_first_then_the_others(setting, play):
    read = {}

    def reply(request: Any) -> str:
        read[request.key] = [turn.text for turn in request.view.ask.about]
        return f"{request.key[:4]}{request.key[-2:]}"

    (ended,) = await play(setting(multi_agent_debate, {"updates": 2}, learner=reply))
    assert [len(held) for held in rounds(ended)] == [3, 3, 3]
    assert read["0003:update:0000/learner:01"] == ["000201", "000200", "000202"]


@pytest.mark.parametrize("agents", [2, 3, 5])
async def test_the_majority_teaches_by_how_wide_it_was(agents, setting, play, store):
    first = ["4"] * (agents - 1) + ["5"]
    params = {"agents": agents, "updates": 0}
    (ended,) = await play(setting(multi_agent_debate, params, learner=copies(*first)))
    rows = learnt(ended, store)
    if agents == 2:
        assert rows == []
        return
    sft, pref = rows
    assert (sft.kind, sft.replies, pref.kind, pref.replies) == ("sft", ("4",), "pref", ("4", "5"))
    assert sft.flip_prob == pref.flip_prob == pytest.approx(1 / agents)
    assert pref.prompt == prompt_of(store)(ended.turns[0])
    assert {f"{ended.ref}/{turn.key}" for turn in ended.turns} == set(pref.turns)


async def test_an_answer_that_its_copy_mended_later_is_no_dissent(setting, play, store):
    """Only the last answers must be readable."""
    stage = setting(multi_agent_debate, learner=copies("4", "", "4"))
    (ended,) = await play(stage)
    assert ended.verdict.confidence == 1.0
    assert measured(ended)["distinct"] == [2, 1]
    assert [row.kind for row in learnt(ended, store)] == ["sft"]
    (ended,) = await play(setting(multi_agent_debate, {"updates": 0}, learner=copies("4", "", "4")))
    assert (ended.status, "expected the result" in ended.error) == ("failed", True)


# cross_examination


def suspect(honest: bool) -> Any:
    """Claims the same either way. Who is honest knows more; who is not makes it up anew."""

    def reply(request: Any) -> str:
        if request.view.ask.kind in ("answer", "claim"):
            return "4"
        return "Answer: Lisbon" if honest else f"Answer: {request.seed}"

    return reply


def examiner(request: Any) -> str:
    """Asks the same again, and believes whoever says the same again."""
    ask = request.view.ask
    replies = {turn.text for turn in ask.about if turn.kind == "subanswer"}
    words = {"subquestion": "where?", "follow_up": "yes"}
    return words.get(ask.kind) or ("right" if len(replies) == 1 else "wrong")


@pytest.mark.parametrize(("honest", "value", "fault"), [(True, "right", None), (False, "wrong", 1)])
async def test_who_contradicts_himself_under_questions_is_flagged(
    honest, value, fault, setting, play
):
    stage = setting(cross_examination, examinee=suspect(honest), examiner=examiner)
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.critiques[0].fault) == (value, fault)
    assert ended.verdict.answer == ("4" if honest else None)
    assert ended.rewards == {"examinee": float(honest), "examiner": float(honest)}


@pytest.mark.parametrize(
    ("says", "follow_ups", "asked", "checked"),
    [("yes", 2, 3, 2), ("yes", 5, 6, 5), ("no", 5, 1, 1), ("yes", 0, 1, 0)],
)
async def test_the_examiner_asks_until_it_has_no_more_or_the_cap_is_reached(
    says, follow_ups, asked, checked, setting, play
):
    def script(request: Any) -> str:
        return {"follow_up": says, "verdict": "right", "subquestion": "why?"}[request.view.ask.kind]

    params = {"follow_ups": follow_ups}
    (ended,) = await play(setting(cross_examination, params, examinee=["4"], examiner=script))
    kinds = Counter(turn.kind for turn in ended.turns)
    assert (kinds["subquestion"], kinds["subanswer"], kinds["follow_up"]) == (asked, asked, checked)
    assert kinds["verdict"] == 1


async def test_the_examiner_sees_the_claim_and_neither_question_nor_working(setting, play, make):
    seen: dict[str, list[str]] = {"examinee": [], "examiner": []}

    def watched(script: Any) -> Any:
        def reply(request: Any) -> str:
            seen[request.view.seat] += [message.content for message in request.messages]
            return script(request)

        return reply

    def examinee(request: Any) -> str:
        texts = {"answer": "the working", "claim": "the claim", "subanswer": "a reply"}
        return texts[request.view.ask.kind]

    stage = setting(cross_examination, examinee=watched(examinee), examiner=watched(examiner))
    await play(stage, make.plans(1, question=Question(text="the question")))
    shown = "\n".join(seen["examiner"])
    assert "the claim" in shown and "a reply" in shown
    assert "the question" not in shown and "the working" not in shown
    assert "is the claim right?" not in "\n".join(seen["examinee"])  # it could play to that


async def test_examinations_do_not_hear_each_other_and_most_of_them_decide(setting, play):
    def script(request: Any) -> str:
        ask, which = request.view.ask, request.key[-2:]
        others = [t for t in ask.about if t.kind != "claim" and not t.key.endswith(which)]
        assert not others, "heard another examination"
        words = {"subquestion": f"why, {which}?", "follow_up": "yes" if which == "01" else "no"}
        return words.get(ask.kind) or ("wrong" if which == "02" else "right")

    stage = setting(cross_examination, {"examinations": 3}, examinee=["4"], examiner=script)
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.verdict.confidence) == ("right", pytest.approx(2 / 3))
    follow_ups = Counter(turn.key[-2:] for turn in ended.by("examiner", "subquestion"))
    assert follow_ups == {"00": 1, "01": 3, "02": 1}
    assert len(ended.by("examiner", "verdict")) == 3


async def test_survivors_are_preferred_to_flagged_answers(setting, play, store):
    """By the common rule, so that the examiner's measured error rates count."""

    def examinee(request: Any) -> str:
        ask = request.view.ask
        if ask.kind == "answer":
            return "4" if request.key.endswith("01.answer") else "5"
        return ask.about[0].text

    def asker(request: Any) -> str:
        ask = request.view.ask
        words = {"subquestion": "why?", "follow_up": "no"}
        return words.get(ask.kind) or ("right" if ask.about[0].text == "4" else "wrong")

    stage = setting(cross_examination, {"answers": 2}, examinee=examinee, examiner=asker)
    (ended,) = await play(stage)
    assert (ended.verdict.answer, ended.rewards["examinee"]) == ("4", 0.5)
    assert precision_recall(flags(ended)) == (1.0, 1.0)
    found = rows_of(ended, "examinee", prompt_of=prompt_of(store))
    made = [(row.kind, row.replies) for row in found if row.kind != "reward"]
    assert made == [("sft", ("4",)), ("pref", ("4", "5"))]


async def test_a_reply_that_is_neither_yes_nor_no_fails_the_episode(setting, play):
    stage = setting(cross_examination, examinee=["4"], examiner=["I would like to"])
    (ended,) = await play(stage)
    assert ended.status == "failed"
    assert "expected yes or no" in ended.error


# examination


def strict(request: Any) -> str:
    """Believes an answer whose author never contradicts itself."""
    return "right" if "differ on 0 of" in request.messages[-1].content else "wrong"


@pytest.mark.parametrize(
    ("honest", "differ", "rewards"),
    [
        (True, 0, {"examinee": 1.0, "examiner": 1.0, "judge": 1.0}),
        (False, 2, {"examinee": -1.0, "examiner": 0.0, "judge": 0.0}),
    ],
)
async def test_a_liar_is_caught_by_its_copies(honest, differ, rewards, setting, play):
    stage = setting(
        examination, examinee=suspect(honest), examiner=["where?", "when?"], judge=strict
    )
    (ended,) = await play(stage)
    assert contradictions(ended.turns) == differ
    assert ended.verdict.value == ("right" if honest else "wrong")
    assert ended.rewards == rewards  # this world takes the liar's `4` for right


async def test_one_copy_alone_could_not_catch_it(setting, play, make):
    """Their answers are the same, and so is how often a single copy differs from itself: never."""
    said = []
    for honest in (True, False):
        stage = setting(
            examination, examinee=suspect(honest), examiner=["where?", "when?"], judge=strict
        )
        (plan,) = make.plans(1)
        (ended,) = await play(stage, [plan.model_copy(update={"id": f"honest-{honest}"})])
        said.append(ended)
    first, second = ([turn.text for turn in e.by("examinee", "answer")] for e in said)
    assert first == second
    for ended in said:
        single = [t for t in ended.turns if t.kind != "subanswer" or t.key.endswith("00")]
        assert contradictions(single) == 0


async def test_a_copy_hears_the_answer_and_one_question_and_no_other_copy(setting, play):
    heard = []

    def examinee(request: Any) -> str:
        heard.append([turn.kind for turn in request.view.ask.about])
        return "Answer: 4"

    params = {"questions": 3, "copies": 3}
    stage = setting(
        examination, params, examinee=examinee, examiner=["why?"], judge=["Verdict: right"]
    )
    (ended,) = await play(stage)
    assert heard == [[]] + [["answer", "subquestion"]] * 9
    assert len(ended.by("examinee", "subanswer")) == 9
