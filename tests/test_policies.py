"""Several policies that learn together: who plays which version, rows by score, the matrix."""

import asyncio
import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners.alarms import Alarm, Watch, panels_of
from superalign.learners.by_score import Scored, by_score, scored
from superalign.learners.estimates import Estimate
from superalign.learners.rows import AUDITS
from superalign.protocols.critique import critique
from superalign.protocols.replay import replay
from superalign.scenarios import watching
from superalign.scenarios.crossplay import Match, crossplay_run
from superalign.scenarios.labelling import answer, queue
from superalign.scenarios.loop import Experiment
from superalign.scenarios.policies import drawn, due, newest, pools, versions_of
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.scenarios.stored import stored_setting
from superalign.scenarios.updating import asks_truth
from superalign.store import BadInput, Episode, Message, Question, Store, Task, Turn, Verdict
from superalign.store.labels import LabelBook
from superalign.store.records import Source

SELF_PLAY = Path(__file__).parent.parent / "scenarios" / "self-play.yaml"
SMALL = (
    "episodes=20",
    "iterations=2",
    "protocol.samples=2",
    "evaluate.heldout=6",
    "learn.attacker.steps=2",
    "learn.attacker.batch=8",
    "learn.learner.steps=2",
    "learn.learner.batch=8",
)
NAMES = st.sampled_from(["simultaneous", "alternating"])


pytestmark = pytest.mark.usefixtures("one_thread")


@lru_cache
def scenario(*overrides):
    return Loaded.read(SELF_PLAY, overrides).scenario


def silent(*_):
    """No progress."""


def go(folder, *overrides, progress=silent):
    """Run the self-play scenario, made small; what is there already is not done again."""
    resolved = resolve(Loaded.read(SELF_PLAY, (*SMALL, *overrides)))
    with Store.open(folder / "store.sqlite", write=True) as store:
        asyncio.run(Experiment("main", resolved, store, folder, progress).go())
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(tmp_path_factory.mktemp("several") / "main")


@pytest.fixture
def store(finished):
    with Store.open(finished / "store.sqlite") as store:
        yield store


# Who plays which version.


def test_simultaneous_updates_give_every_seat_a_version_an_iteration():
    told = scenario()
    assert [due(told, i) for i in (1, 2)] == [["attacker", "learner"]] * 2
    assert versions_of(told, "learner", 2) == ["tiny", "learner-1", "learner-2"]


def test_alternating_updates_take_turns_in_the_cast_s_order():
    told = scenario("updates=alternating")
    assert [due(told, i) for i in (1, 2, 3)] == [["attacker"], ["learner"], ["attacker"]]
    assert newest(told, 3) == {"attacker": "attacker-3", "learner": "learner-2"}


@given(seed=st.integers(0, 2**40), iteration=st.integers(1, 9), n=st.integers(1, 5), how=NAMES)
def test_who_plays_follows_from_the_seed_and_one_seat_due_is_at_its_newest(seed, iteration, n, how):
    told = scenario(f"opponents={n}", f"updates={how}")
    played, pool = drawn(told, iteration, seed), pools(told, iteration)
    assert played == drawn(told, iteration, seed)
    assert all(played[seat] in pool[seat] and len(pool[seat]) <= n for seat in pool)
    last = newest(told, iteration - 1)
    assert any(played[seat] == last[seat] for seat in due(told, iteration))


def test_old_opponents_do_play():
    told = scenario("opponents=3")
    met = {tuple(drawn(told, 4, seed).values()) for seed in range(200)}
    old = [f"attacker-{i}" for i in (1, 2)]
    assert {(attacker, "learner-3") for attacker in (*old, "attacker-3")} <= met
    assert ("attacker-3", "learner-1") in met
    assert not any(attacker in old and learner != "learner-3" for attacker, learner in met)


# Rows by score.


def turn(text, key="0001:attack:0000/attacker:00", prompt="p", policy="a-1", **more):
    given = {"seat": "attacker", "kind": "question", "messages": (prompt,), "sampling": {}}
    return Turn(key=key, text=text, policy=policy, seed=0, **given, **more)


def one(text, reward, prompt="p", source: Source = "ai", n=0):
    return Scored(turn(text, prompt=prompt), reward, source, "critic-0", (f"r/e{n}/k",), 1)


def prompts(turn):
    return (Message(role="cell", content=turn.messages[0]),)


def test_the_mean_of_a_text_counts_and_only_the_better_half_is_copied():
    turns = [one("a", 1.0, n=1), one("a", 0.0, n=2), one("b", 1.0, n=3), one("c", 0.0, n=4)]
    rows = by_score(turns, prompt_of=prompts)
    assert [row.replies for row in rows if row.kind == "sft"] == [("b",)]
    pairs = [row.replies for row in rows if row.kind == "pref"]
    assert sorted(pairs) == [("a", "c"), ("b", "a"), ("b", "c")]
    assert [row.rewards for row in rows if row.kind == "reward"] == [(1.0,), (0.0,), (1.0,), (0.0,)]
    copied = next(row for row in rows if row.replies == ("a", "c"))
    assert copied.turns == ("r/e1/k", "r/e2/k", "r/e4/k")


SCORES = st.lists(
    st.tuples(st.sampled_from("pq"), st.sampled_from("abcdef"), st.sampled_from([0.0, 0.5, 1.0])),
    max_size=30,
)


@given(found=SCORES, most=st.integers(1, 6))
def test_pairs_keep_to_one_prompt_and_to_the_order_of_the_means(found, most):
    turns = [one(text, r, prompt, n=n) for n, (prompt, text, r) in enumerate(found)]
    rows = by_score(turns, prompt_of=prompts, max_pairs=most)
    mean = {key: [r for p, t, r in found if (p, t) == key] for key in {(p, t) for p, t, _ in found}}
    mean = {key: sum(some) / len(some) for key, some in mean.items()}
    for prompt in "pq":
        pairs = [
            row.replies for row in rows if row.kind == "pref" and row.prompt[0].content == prompt
        ]
        assert len(pairs) <= most
        assert len(set(pairs)) == len(pairs)
        assert all(mean[prompt, a] > mean[prompt, b] for a, b in pairs)
        possible = [key for key in mean if key[0] == prompt]
        if len({mean[key] for key in possible}) > 1:
            assert pairs
    assert sum(row.kind == "reward" for row in rows) == len(turns)


def test_a_first_round_of_pairs_uses_every_text_once():
    turns = [one(text, float(i < 4), n=i) for i, text in enumerate("abcdefgh")]
    rows = by_score(turns, prompt_of=prompts, max_pairs=4)
    used = [text for row in rows if row.kind == "pref" for text in row.replies]
    assert sorted(used) == list("abcdefgh")


def test_the_oracle_s_rewards_train_controls_alone():
    turns = [one("a", 1.0, source="oracle"), one("b", 0.0, source="oracle", n=1)]
    with pytest.raises(BadInput, match="control arms only"):
        by_score(turns, prompt_of=prompts)
    assert {row.source for row in by_score(turns, prompt_of=prompts, control=True)} == {"oracle"}


def episode(reward, verdict="failed", **more):
    question = Question(topic="zeros", text="10+20")
    told = {"run": "r", "id": "e", "index": 0, "protocol": "critique", "protocol_hash": ""}
    return Episode(
        params={"samples": 2},
        task=Task(question=question),
        seed=0,
        status="done",
        question=question,
        verdict=Verdict(value=verdict, seat="critic"),
        rewards={"attacker": reward},
        **told,
        **more,
    )


def test_the_seat_of_the_verdict_is_the_judge_and_unscored_is_left_out():
    said = turn("ok", key="0003:criticise:0000/critic:00", policy="critic-7")
    said = said.model_copy(update={"seat": "critic", "kind": "critique", "source": "human"})
    turns = (turn("10+20"), said)
    (found,) = scored([episode(1.0, turns=turns), episode(None, turns=turns)], "attacker")
    assert (found.source, found.judge) == ("human", "critic-7")
    assert found.refs == ("r/e/0001:attack:0000/attacker:00", "r/e/0003:criticise:0000/critic:00")


def test_a_turn_that_was_cut_off_teaches_nothing():
    turns = (turn("10+", finish="length"),)
    assert scored([episode(1.0, turns=turns)], "attacker") == []


def test_a_critic_s_reward_asks_the_truth_and_an_attacker_s_does_not(store):
    played = list(store.episodes("main", iteration=1))
    assert asks_truth(critique, "critic", played)
    assert not asks_truth(critique, "attacker", played)
    assert not asks_truth(critique, "learner", played)


# The loop.


def test_every_seat_has_versions_of_its_own(store):
    versions = store.versions("main")
    assert {v.id: (v.seat, v.parent) for v in versions if v.parent} == {
        "attacker-1": ("attacker", "tiny"),
        "learner-1": ("learner", "tiny"),
        "attacker-2": ("attacker", "attacker-1"),
        "learner-2": ("learner", "learner-1"),
    }


def test_a_version_learns_from_its_parent_s_words_alone(store):
    said = {f"{e.ref}/{t.key}": t for e in store.episodes("main") for t in e.turns}
    rows = {row.id: row for row in store.rows("main")}
    for version in store.versions("main"):
        taught = [rows[row] for row in store.taught("main", version.id)]
        assert bool(taught) == bool(version.parent)
        spoke = {said[ref].policy for row in taught for ref in row.turns}
        own = {said[r].policy for row in taught for r in row.turns if said[r].seat == version.seat}
        assert own == ({version.parent} if version.parent else set())
        assert spoke - own <= {"tiny"}  # the critic, who does not learn


def test_frozen_opponents_were_met(store):
    last = list(store.episodes("main", iteration=2))
    met = {(e.by("attacker")[0].policy, t.policy) for e in last for t in e.by("learner")}
    assert {"tiny", "attacker-1"} == {attacker for attacker, _ in met}
    assert ("tiny", "tiny") not in met


def test_replay_meets_the_record(store):
    setting = stored_setting(store, "main")
    some = list(store.episodes("main", iteration=2))[:6]
    assert [asyncio.run(replay(setting, episode)) for episode in some] == [None] * 6


class Killed(Exception):
    """Stands for a SIGKILL at a chosen moment."""


def hashes(folder):
    with Store.open(folder / "store.sqlite") as store:
        return {e.id: e.transcript_hash for e in store.episodes("main")}


def test_a_run_that_was_killed_between_two_seats_ends_the_same(finished, tmp_path):
    updates = []

    def kill(what, iteration, done, total, facts):
        updates.append(what == "learn" and iteration == 1)
        if sum(updates) == 3:  # the first step of the second seat
            raise Killed

    with pytest.raises(Killed):
        go(tmp_path, progress=kill)
    with Store.open(tmp_path / "store.sqlite") as store:
        assert [v.id for v in store.versions("main")] == ["tiny", "attacker-1"]
    go(tmp_path)
    assert hashes(tmp_path) == hashes(finished)


def critic_learns(tmp_path, *labels):
    learns = "learn={critic: {method: sft, steps: 1, batch: 4}}"
    cast = ("cast.attacker.learn=false", "cast.learner.learn=false", "cast.critic.learn=true")
    keys = ("episodes=6", "iterations=1", "evaluate=", "protocol.samples=2", learns, *cast, *labels)
    resolved = resolve(Loaded.read(SELF_PLAY, keys))
    with Store.open(tmp_path / "store.sqlite", write=True) as store:
        asyncio.run(Experiment("main", resolved, store, tmp_path, silent).go())
        return [row for row in store.rows("main", 1) if row.seat == "critic"]


def test_a_critic_is_not_taught_by_the_truth_outside_a_control(tmp_path):
    with pytest.raises(BadInput, match="critic: what it earns is told by source='oracle'"):
        critic_learns(tmp_path, "labels.human=")


def test_a_critic_learns_from_labels_of_people(tmp_path):
    taught = critic_learns(tmp_path)
    assert taught and {row.source for row in taught} == {"human"}


# Alarms.

CAME = Estimate(0.9, 0.8, 1.0)
ALARM = Alarm("gaming", "gold", 1, 1, 1, CAME, Estimate(0.2, 0.1, 0.3), CAME, "Pause the learner.")
QUICK = (
    "learn={method: sft, steps: 1, batch: 4}",
    "cast.attacker.learn=false",
    "evaluate=",
    "episodes=12",
    "iterations=1",
    "protocol.samples=2",
)


def experiment(folder, store, *overrides):
    resolved = resolve(Loaded.read(SELF_PLAY, (*QUICK, *overrides)))
    return Experiment("main", resolved, store, folder, silent)


def updated(store):
    return [version.id for version in store.versions("main") if version.parent]


@pytest.fixture
def alarmed(monkeypatch):
    """Every iteration, something has gone wrong."""
    monkeypatch.setattr(watching, "watch", lambda panels: Watch((ALARM,), ()))


@pytest.mark.usefixtures("alarmed")
def test_an_alarm_that_pauses_stops_the_run_once_before_it_learns(tmp_path):
    with Store.open(tmp_path / "store.sqlite", write=True) as store:
        first = experiment(tmp_path, store, "alarms=pause")
        asyncio.run(first.go())
        assert (first.parked, first.alarms, updated(store)) == (True, [str(ALARM)], [])
        again = experiment(tmp_path, store, "alarms=pause")
        asyncio.run(again.go())
        assert (again.parked, updated(store)) == (False, ["learner-1"])
    assert json.loads((tmp_path / "alarms.json").read_text()) == {"1": [str(ALARM)]}


@pytest.mark.usefixtures("alarmed")
def test_an_alarm_that_is_told_stops_nothing(tmp_path):
    with Store.open(tmp_path / "store.sqlite", write=True) as store:
        run = experiment(tmp_path, store)
        asyncio.run(run.go())
        assert (run.parked, run.alarms, updated(store)) == (False, [str(ALARM)], ["learner-1"])


@pytest.mark.usefixtures("alarmed")
def test_an_alarm_asks_people_for_labels_on_answers_that_nobody_labelled(tmp_path):
    people = ("alarms=pause", "labels.human={source: person, budget: 2, double: 0}")
    with Store.open(tmp_path / "store.sqlite", write=True) as store:
        book = LabelBook.beside(store.url)
        for expected in (2, 4, 4):
            asyncio.run((run := experiment(tmp_path, store, *people)).go())
            cases = store.cases("main")
            assert len({(case.episode, case.turn) for case in cases}) == expected
            for sheet in queue(store, book, "main", "ann"):
                answer(store, book, "main", "ann", sheet.place, "wrong")
        assert (run.parked, updated(store)) == (False, ["learner-1"])
        labels = store.labels("main")
        assert [label.correct for label in labels] == [False] * 4
        assert sorted(label.why for label in labels if label.why not in AUDITS) == [
            "least_confident"
        ]


def test_opponents_that_were_not_at_their_newest_count_as_frozen(store):
    first, second, _ = panels_of(store, "main")
    assert first.frozen is None and second.frozen and second.reward


# The matrix.


def test_the_matrix_holds_every_version_on_the_same_tasks(finished, tmp_path):
    match, told = Match("attacker", "learner", 3, 0), []
    place = str(finished), match, (), tmp_path, "me", False, None, lambda *n: told.append(n)
    facts = crossplay_run(*place)
    assert facts["rows"]["versions"] == ["tiny", "attacker-1", "attacker-2"]
    assert facts["columns"]["versions"] == ["tiny", "learner-1", "learner-2"]
    assert told[-1] == (27, 27)
    with Store.open(finished / "store.sqlite") as store:
        played = list(store.episodes(facts["run"]))
        assert store.run(facts["run"]).parent == "main"
    for cell in facts["cells"]:
        mine = [e for e in played if e.tags == (f"{cell['row']} x {cell['column']}",)]
        assert len(mine) == 3
        assert [e.task.key for e in mine] == [e.task.key for e in played[:3]]
        spoke = {(t.seat, t.policy) for e in mine for t in e.turns if t.seat != "critic"}
        assert spoke <= {("attacker", cell["row"]), ("learner", cell["column"])}
        found = [r for e in mine if (r := e.rewards.get("learner")) is not None]
        assert cell["n"] == len(found)
        assert cell["reward"] == (pytest.approx(sum(found) / len(found)) if found else None)
    taken = [(x["trained_against"], x["value"]) for x in facts["exploitability"]]
    assert taken == [("tiny", None), ("tiny", None), ("attacker-1", None)]  # of too few episodes
    assert (tmp_path / "crossplay.svg").read_text().startswith("<?xml")
    told.clear()
    again = crossplay_run(*place[:5], True, None, lambda *n: told.append(n))
    assert (again, told) == (facts, [])


def test_a_seat_that_never_learnt_has_no_row(finished, tmp_path):
    with pytest.raises(BadInput, match="critic has no versions but its base"):
        match = Match("critic", "learner", 2, 0)
        crossplay_run(str(finished), match, (), tmp_path, "me", False, None, silent)
