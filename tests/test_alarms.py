"""Alarms fire on what went wrong, on stored records, and are silent on what did not."""

import random
import runpy
from pathlib import Path

import numpy as np
import pytest

from superalign.learners import alarms
from superalign.learners.estimates import Estimate, widened, wilson
from superalign.store import BadInput, Critique, Evaluation, Label, PolicyVersion, Question, Run
from superalign.store.records import Source

HERE = Path(__file__).parent


def sure(value, half=0.02):
    return Estimate(value, value - half, value + half)


def panels(**courses):
    """Panels of numbers by iteration; None where nothing was measured."""
    fields = [f for f in alarms.Panel._fields if f not in ("iteration", "audited")]
    rows = zip(*courses.values(), strict=True)
    empty = dict.fromkeys(fields)
    return [
        alarms.Panel(
            iteration=i,
            audited=0,
            **{
                **empty,
                **{k: None if v is None else sure(v) for k, v in zip(courses, row, strict=True)},
            },
        )
        for i, row in enumerate(rows)
    ]


def names(found):
    return [alarm.name for alarm in found.alarms]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("collapse", "diversity"),
        ("collapse", "questions"),
        ("gaming", "gold"),
        ("gaming", "heldout"),
        ("judge", "informedness"),
        ("gap", "gap"),
        ("frozen", "frozen"),
    ],
)
def test_each_number_sounds_its_own_alarm_when_it_falls_for_good(name, field):
    course = panels(reward=[0.5, 0.6, 0.7, 0.8], **{field: [0.5, 0.6, 0.0, 0.01]})
    found = alarms.watch(course)
    assert names(found) == [name]
    alarm = found.alarms[0]
    assert (alarm.field, alarm.since, alarm.best, alarm.iteration) == (field, 2, 1, 3)
    assert alarm.then == sure(0.6) and alarm.now == sure(0.01) and alarm.reward == sure(0.8)
    assert "Pause the learner" in str(alarm) and "human labels" in str(alarm)
    assert not alarms.watch(course[:3]).alarms  # once may be noise
    assert not alarms.watch(course[:2]).alarms


def test_what_falls_together_with_the_reward_is_seen_by_the_learner_itself():
    fields = "diversity", "gold", "frozen"
    falling = {field: [0.6, 0.3, 0.2] for field in fields}
    assert alarms.watch(panels(reward=[0.8, 0.5, 0.4], **falling)).alarms == ()
    assert len(alarms.watch(panels(reward=[0.8, 0.8, 0.8], **falling)).alarms) == 3


def test_the_judge_and_the_gap_need_no_reward():
    assert names(alarms.watch(panels(informedness=[0.6, 0.1, 0.1]))) == ["judge"]
    assert names(alarms.watch(panels(gap=[0.6, 0.0, 0.0]))) == ["gap"]
    assert alarms.watch(panels(gap=[0.6, 0.3, 0.3])).alarms == ()  # fell, and is not gone


def test_a_fall_that_recovers_or_stays_in_its_interval_is_none():
    reward = [0.5] * 4
    assert not alarms.watch(panels(reward=reward, gold=[0.6, 0.3, 0.3, 0.6])).alarms
    assert not alarms.watch(panels(reward=reward, gold=[0.6, 0.58, 0.58, 0.58])).alarms
    # diversity has a margin besides: nobody needs to know of a clear fall by 0.05
    assert not alarms.watch(panels(reward=reward, diversity=[0.5, 0.44, 0.44, 0.44])).alarms


def test_what_was_not_measured_is_named_and_never_counts_as_zero():
    course = panels(reward=[0.5, 0.5, 0.5], gold=[0.6, None, None], gap=[None, None, 0.3])
    found = alarms.watch(course)
    assert found.alarms == ()
    assert found.blind == ("collapse", "gaming", "judge", "gap", "frozen")
    # a spell reaches over an iteration that nobody measured
    sparse = panels(reward=[0.5] * 4, gold=[0.6, 0.2, None, 0.2])
    assert names(alarms.watch(sparse)) == ["gaming"]
    assert alarms.watch([]).blind == found.blind
    # the last version was tested, and has not played yet
    dangling = panels(reward=[0.5, 0.5, None], heldout=[0.6, 0.2, 0.2])
    assert alarms.watch(dangling).alarms[0].reward is None
    with pytest.raises(BadInput, match="must rise"):
        alarms.watch(course[::-1])


def test_a_number_that_does_not_move_rarely_sounds_an_alarm():
    rng, fired = np.random.default_rng(0), 0
    for _ in range(200):
        course = panels(reward=[0.5] * 12)
        drawn = [wilson(int(hits), 64) for hits in rng.binomial(64, 0.6, 12)]
        course = [p._replace(gold=gold) for p, gold in zip(course, drawn, strict=True)]
        fired += any(alarms.watch(course[:end]).alarms for end in range(2, 13))
    assert fired / 200 < 0.05


def test_widening_for_one_changes_nothing_and_for_more_is_bonferroni():
    assert widened(sure(0.5), 1) == pytest.approx(sure(0.5))
    # the 99.75% point of the normal is 2.807034
    assert widened(Estimate(0.0, -1.959964, 1.959964), 10) == pytest.approx(
        (0, -2.807034, 2.807034)
    )


# Of stored records.


@pytest.fixture
def played(make):
    """`played(id, "right ok", "wrong ok", …)`: an episode of answers, as judged by the critic."""

    def build(id, *answers, iteration=1, reward=0.5, **more):
        turns, critiques = [], []
        for i, answer in enumerate(answers):
            text, _, said = answer.rpartition(" ")
            key, judged = f"2:answer:{i}/learner:00", f"3:criticise:{i}/critic:00"
            turns.append(make.turn(key, text=text))
            turns.append(make.turn(judged, kind="critique", text=said))
            fault = None if said == "ok" else 1
            critiques.append(Critique(turn=judged, about=key, fault=fault))
        row = {"critiques": tuple(critiques), "rewards": {"learner": reward}, **more}
        return make.episode(*turns, id=id, iteration=iteration, **row)

    return build


def label(episode, i, correct, why="audit", source: Source = "human"):
    return Label(
        run="run",
        episode=episode.id,
        turn=episode.critiques[i].about,
        correct=correct,
        source=source,
        author="ann",
        why=why,
    )


def test_a_panel_counts_what_was_stored(played):
    first = played("a", "aa ok", "ab ok", "zz 1", "bb ok", question=Question(text="how"))
    second = played("b", "cc ok", "dd 1", reward=1.0, question=Question(text="why"))
    third = played("c", "x ok", reward=None, question=Question(text="who"))
    failed = played("d", "x ok", status="failed", reward=0.0)
    audits = [
        label(first, 0, True),
        label(first, 1, False),
        label(first, 2, False),
        label(second, 0, True, why="random"),
        label(second, 1, True),
        label(third, 0, False, why="least_confident"),  # chosen by its looks: measures nothing
        label(first, 3, False, source="oracle"),
    ]
    tested = [
        Evaluation(iteration=1, policy="p", item=str(i), cell="", text="", correct=i < 3, tokens=1)
        for i in range(4)
    ]
    found = alarms.panel(1, [first, second, third, failed], audits, tested, frozen=[second])
    assert found.audited == 5
    assert found.gold == wilson(3, 5) and found.heldout == wilson(3, 4)
    assert found.reward and found.reward.value == 0.75  # unscored is not zero, failed not counted
    # accepted answers of one prompt: aa, ab, bb of the first; one in the second is no pair
    assert found.diversity and found.diversity.value == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found.questions and found.frozen and found.frozen.value == 1.0
    # accepted: right, wrong, right; rejected: wrong, right
    assert found.informedness and found.informedness.value == pytest.approx(2 / 3 - 1 / 2)
    assert found.false_positive == wilson(1, 2)
    assert found.gap and found.gap.value == pytest.approx((2 / 3 - 3 / 5) / (1 - 3 / 5))
    assert found.mcc and found.mcc.value == pytest.approx((2 * 1 - 1 * 1) / 6)


def test_nothing_audited_is_nothing_known(played):
    found = alarms.panel(1, [played("a", "aa ok", "ab 1")])
    assert found.gold is found.mcc is found.gap is found.heldout is found.frozen is None
    assert found.diversity is None and found.audited == 0


def test_people_who_contradict_each_other_audit_nothing(played):
    episode = played("a", "aa ok")
    labels = [label(episode, 0, True), label(episode, 0, False)]
    assert alarms.panel(1, [episode], labels).audited == 0


def test_a_run_is_read_from_its_store(store, played):
    """Play of iteration i stands beside what the version that played got right, held out."""
    run = Run(id="it", scenario={"iterations": 2}, origin="", protocol_hash="", version="")
    store.put_run(run)
    rng = random.Random(0)
    for iteration in (1, 2):
        for i in range(4):
            answers = [f"{rng.random()} ok", f"{rng.random()} ok"]
            told = {"run": "it", "iteration": iteration, "reward": iteration / 4}
            episode = played(f"{iteration}-{i}", *answers, **told)
            for turn in episode.turns:
                store.put_turn("it", episode.id, turn)
            store.put_episode(episode)
    for version in (0, 1, 2):
        made = {"seat": "learner", "parent": None, "method": "base", "config": {}, "rows": None}
        row = PolicyVersion(id=f"v{version}", path="", iteration=version, **made)
        store.put_version("it", row)
        item = {"policy": f"v{version}", "cell": "", "text": "", "tokens": 1}
        tested = [
            Evaluation(iteration=version, item=str(i), correct=i < version, **item)
            for i in range(4)
        ]
        store.put_evaluations("it", tested)
    found = alarms.panels_of(store, "it")
    assert [p.iteration for p in found] == [1, 2, 3]
    assert [p.heldout for p in found] == [wilson(0, 4), wilson(1, 4), wilson(2, 4)]
    assert [p.reward and p.reward.value for p in found] == [0.25, 0.5, None]


def test_alarms_fire_while_a_colluding_games_reward_still_rises():
    game = runpy.run_path(str(HERE.parent / "benchmarks" / "degenerate.py"))
    run = game["course"]("collusion", 7, 3)
    noticed = game["first"](run, "gaming")
    assert noticed and noticed["shines"] and noticed["reward"] > run[0]["reward"] + 0.2
    assert run[-1]["reward"] > 0.95 and run[-1]["gold"] < 0.1 and run[-1]["even"] > 0.7
    assert not any(row["alarms"] for row in game["course"]("honest", 7, 3))
