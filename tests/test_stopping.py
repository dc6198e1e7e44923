"""Stop rules and exploitability: known answers, laws of games, runs that a limit ends, and one that
an alarm pauses."""

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from superalign.learners.alarms import Panel, panel_of
from superalign.learners.estimates import Estimate, change, mean_interval
from superalign.learners.exploitability import FEWEST, exploitability, exploited
from superalign.learners.stopping import StopRules, broken
from superalign.scenarios import report
from superalign.scenarios.commands import run_scenario
from superalign.scenarios.report import report_facts
from superalign.scenarios.scenario import Loaded
from superalign.scenarios.watching import told_in
from superalign.store import BadInput, PolicyVersion, Question, Run, Store

ROOM = Path(__file__).parent.parent / "scenarios"
SELF_PLAY = ROOM / "self-play.yaml"
ROCK_PAPER_SCISSORS = np.array([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])
"""What a column earns against a row: rock, paper, scissors."""
EVEN, ROCK, PAPER = np.full(3, 1 / 3), np.eye(3)[0], np.eye(3)[1]


pytestmark = pytest.mark.usefixtures("one_thread")


# Exploitability.


@pytest.mark.parametrize(
    ("mixture", "met", "expected"),
    [
        (EVEN, EVEN, 0.0),  # the equilibrium
        (EVEN, ROCK, 0.0),  # whoever plays against it
        (ROCK, ROCK, 1.0),  # paper takes 1 where rock took nothing
        (ROCK, EVEN, 1.0),
        (ROCK, PAPER, 0.0),  # what it trained against already takes all there is
        ((ROCK + PAPER) / 2, EVEN, 0.5),  # paper: half a win, half a draw
    ],
)
def test_rock_paper_scissors(mixture, met, expected):
    assert exploitability(ROCK_PAPER_SCISSORS, mixture, met) == pytest.approx(expected)


GAMES = arrays(float, (3, 4), elements=st.floats(-1, 1))


def best(reward_P_S):
    """The column player's equilibrium: it makes the least of what it earns as large as can be."""
    rows, columns = reward_P_S.shape
    more = np.hstack([-reward_P_S, np.ones((rows, 1))])
    bounds = [(0, 1)] * columns + [(None, None)]
    one = [[1.0] * columns + [0.0]]
    found = linprog([0.0] * columns + [-1.0], more, np.zeros(rows), one, [1.0], bounds)
    return found.x[:-1]


@given(game=GAMES)
def test_both_players_exploitabilities_sum_to_nothing_at_an_equilibrium(game):
    column, row = best(game), best(-game.T)
    both = exploitability(game, column, row) + exploitability(-game.T, row, column)
    assert both == pytest.approx(0, abs=1e-6)


@given(game=GAMES, seed=st.integers(0, 99), by=st.floats(-5, 5), times=st.floats(0.1, 5))
def test_it_is_never_below_nothing_and_moves_with_the_scale_alone(game, seed, by, times):
    rng = np.random.default_rng(seed)
    column, row = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(3))
    taken = exploitability(game, column, row)
    assert taken >= -1e-9
    assert exploitability(times * game + by, column, row) == pytest.approx(times * taken, abs=1e-9)
    assert exploitability(np.vstack([game, game[:1]]), column, np.append(row, 0)) == pytest.approx(
        taken
    )


def test_of_samples_it_is_the_largest_gap_and_its_interval_holds_for_all_opponents():
    earned = {"met": [0.6, 0.4] * 30, "hard": [0.1, 0.3] * 30, "easy": [0.9, 0.7] * 30}
    found = exploited(earned, "met")
    assert found and found.value == pytest.approx(0.3)
    alone = exploited({name: earned[name] for name in ("met", "hard")}, "met")
    hard, base = mean_interval(earned["hard"]), mean_interval(earned["met"])
    assert alone and hard and base and alone == pytest.approx(change(hard, base))
    assert found.low < alone.low and found.high > alone.high
    mild = exploited({name: earned[name] for name in ("met", "easy")}, "met")
    assert mild == (0, 0, 0)  # the one that it trained against is of the pool


def test_what_was_hardly_met_is_not_known():
    few, many = [0.0] * (FEWEST - 1), [1.0] * FEWEST
    assert exploited({"met": many, "new": few}, "met") is None
    assert exploited({"met": few, "new": many}, "met") is None
    assert exploited({"new": many}, "met") is None
    assert exploited({"met": many, "new": few, "old": many}, "met") == (0, 0, 0)


def test_equal_opponents_seldom_look_as_if_one_exploited():
    rng, low = np.random.default_rng(0), 0
    for _ in range(100):
        earned = {name: rng.binomial(1, 0.6, 40).tolist() for name in range(5)}
        found = exploited(earned, 0)
        low += found is not None and found.low > 0
    assert low / 100 <= 0.05


# Rules.


def panels(field, *found):
    """Panels of one number; of a pair, its interval."""
    numbers = [f and Estimate(sum(f) / 2, *f) for f in found]
    empty = dict.fromkeys(Panel._fields)
    return [
        Panel(**{**empty, "iteration": i, "audited": 0, field: n}) for i, n in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("field", "beyond", "near", "within"),
    [
        ("diversity", (0.0, 0.09), (0.0, 0.11), (0.3, 0.4)),
        ("questions", (0.0, 0.09), (0.05, 0.1), (0.3, 0.4)),
        ("exploitability", (0.11, 0.5), (0.1, 0.5), (0.0, 0.05)),
    ],
)
def test_a_limit_is_passed_when_two_whole_intervals_lie_beyond_it(field, beyond, near, within):
    rules = StopRules(**{field: 0.1})
    (found,) = broken(rules, panels(field, within, beyond, beyond))
    assert (found.field, found.iteration, found.limit) == (field, 2, 0.1)
    assert f"iteration 2: {field} is" in str(found) and "its limit of 0.1" in str(found)
    assert not broken(rules, panels(field, beyond))  # once may be noise
    assert not broken(rules, panels(field, within, beyond))
    assert not broken(rules, panels(field, beyond, near))
    assert not broken(rules, panels(field, beyond, beyond, within))
    assert broken(rules, panels(field, beyond, None, beyond))
    assert not broken(rules, panels(field, beyond, beyond, None))  # nothing new is known
    assert not broken(StopRules(), panels(field, beyond, beyond))


def loaded(*overrides):
    return Loaded.read(SELF_PLAY, overrides).scenario.stop


def test_limits_on_what_is_never_measured_are_refused():
    assert loaded("stop.exploitability=0.2").limits == {"exploitability": 0.2}
    with pytest.raises(BadInput, match=r"stop\.exploitability: only one version of an opponent"):
        loaded("stop.exploitability=0.2", "opponents=1")
    with pytest.raises(BadInput, match=r"stop\.exploitability: only one version"):
        loaded("stop.exploitability=0.2", "cast.attacker.learn=false")
    silent = "cast.attacker.learn=false", "cast.learner.learn=false"
    with pytest.raises(BadInput, match=r"stop\.diversity: nothing learns"):
        loaded("stop.diversity=0.2", *silent)
    with pytest.raises(BadInput, match=r"stop\.diversity: .*greater than 0"):
        loaded("stop.diversity=0")


# Of stored records.


def met(make, iteration, id, learner, attacker, reward, **more):
    """An episode in which these versions spoke."""
    turns = [
        make.turn(f"1:ask/{id}", seat="attacker", kind="question", policy=attacker),
        make.turn(f"2:answer/{id}", seat="learner", policy=learner),
    ]
    told = {"run": "it", "iteration": iteration, "rewards": {"learner": reward}, **more}
    return make.episode(*turns, id=id, question=Question(text=f"q {id}"), **told)


def test_a_run_s_panel_compares_opponents_with_the_one_that_was_trained_against(store, make):
    cast = {seat: {"model": "base"} for seat in ("attacker", "learner")}
    told = {"iterations": 3, "cast": cast}
    store.put_run(Run(id="it", scenario=told, origin="", protocol_hash="", version=""))
    plays = [("learner-2", "attacker-1", 0.8), ("learner-2", "attacker-2", 0.2)]
    plays += [("learner-1", "attacker-2", 0.0)]  # an older learner tells nothing of the newest
    for learner, attacker, reward in plays:
        for n in range(FEWEST):
            id = f"{learner}{attacker}{n}".replace("-", "")
            episode = met(make, 3, id, learner, attacker, reward + 0.1 * (n % 2))
            for turn in episode.turns:
                store.put_turn("it", episode.id, turn)
            store.put_episode(episode)
    for seat, i in (("attacker", 1), ("learner", 1), ("attacker", 2), ("learner", 2)):
        made = {"seat": seat, "parent": "base", "method": "sft", "config": {}, "rows": None}
        store.put_version("it", PolicyVersion(id=f"{seat}-{i}", path="", iteration=i, **made))
    found = panel_of(store, "it", 3)
    # learner-2 was made of iteration 2, whose newest attacker was attacker-1
    assert found.exploitability and found.exploitability.value == pytest.approx(0.6)
    assert found.frozen and found.frozen.value == pytest.approx(0.85)
    assert found.reward and found.reward.value == pytest.approx(0.25)
    assert panel_of(store, "it", 1).exploitability is None


# Runs that end.

QUICK = (
    "protocol.samples=2",
    "protocol.revisions=0",
    "learn={learner: {method: sft, steps: 1, batch: 4}}",
    "cast.attacker.learn=false",
    "evaluate=",
    "labels.human=",
    "episodes=8",
    "iterations=3",
    "opponents=1",
)
STRICT = "stop.questions=0.999"


def updated(facts):
    with Store.open(facts["store"]) as store:
        versions = [v.id for v in store.versions(facts["run"]) if v.parent]
        return versions, report_facts(store, facts["run"])


def run(out, *overrides, resume=False):
    return run_scenario(SELF_PLAY, (*QUICK, *overrides), out, None, resume)


def test_a_limit_ends_the_run_and_a_looser_one_lets_it_go_on(tmp_path, monkeypatch):
    facts, ok = run(tmp_path, STRICT)
    assert ok and not facts["paused"] and not facts["waiting"]
    (why,) = facts["stopped"]
    assert why.startswith("iteration 2: questions is 0.") and why.endswith("its limit of 0.999")
    versions, told = updated(facts)
    assert versions == ["learner-1"]  # what was learnt is kept, and nothing was learnt since
    assert told["alarms"]["stopped"] == [why] and not told["complete"]
    page = (Path(facts["folder"]) / "report.html").read_text()
    assert "This run was stopped:" in page and "not finished" not in page

    monkeypatch.setattr(
        report, "write_report", lambda *_: ({"spent": None}, None)
    )  # it takes most of the time
    again, _ = run(tmp_path, STRICT, resume=True)
    assert again["stopped"] == [why] and updated(again)[0] == versions

    on, ok = run(tmp_path, resume=True)
    assert ok and on["run"] == facts["run"] and on["stopped"] == []
    versions, told = updated(on)
    assert versions == ["learner-1", "learner-2", "learner-3"]
    assert told["alarms"]["stopped"] == [] and told["complete"]
    with pytest.raises(BadInput, match="was another scenario"):
        run(tmp_path, "seed=1", resume=True)


def test_a_seat_without_rows_keeps_its_version_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda *_: ({"spent": None}, None))
    nods = "models.nods={engine: scripted, replies: [ok]}", "cast.critic.model=nods"
    pairs = "learn={learner: {method: dpo, steps: 1, batch: 4}}"  # and nothing is rejected
    facts, _ = run(tmp_path, *nods, pairs, "iterations=2")
    why = "it had no rows to learn from"
    assert facts["kept"] == [f"learner-1 is tiny: {why}", f"learner-2 is learner-1: {why}"]
    with Store.open(facts["store"]) as store:
        base, *kept = store.versions(facts["run"])
        second = list(store.episodes(facts["run"], iteration=2))
        assert all(store.taught(facts["run"], v.id) == [] for v in kept)
    assert [(v.id, v.parent, v.method) for v in kept] == [
        ("learner-1", "tiny", "none"),
        ("learner-2", "learner-1", "none"),
    ]
    assert {v.path for v in kept} == {base.path}
    assert {t.policy for e in second for t in e.by("learner")} == {"learner-1"}


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(BadInput, match="swap: the attacker writes the questions"):
        run(tmp_path, "swap=true")
    assert list(tmp_path.iterdir()) == []


def test_a_loop_that_goes_wrong_is_paused_labelled_and_goes_on(tmp_path):
    """The shipped scenario, made small and quicker to spoil; nothing in it is a stand-in."""
    game = runpy.run_path(str(ROOM.parent / "benchmarks" / "paused.py"))
    small = ("episodes=24", "protocol.samples=3", "iterations=3", "evaluate=")
    small += ("labels.human.budget=96", "cast.learner.max_tokens=32")
    spoilt = ("learn.lr=5e-3", "learn.steps=5", "learn.batch=8")
    with Store.open(tmp_path / "store.sqlite", write=True) as store:
        waited = game["play"](store, tmp_path, *small, *spoilt)
        *before, after = waited
        assert [wait["alarms"] for wait in before] == [[], [], []]
        assert after["asked"] == 32 and after["alarms"][0].startswith(
            "gaming, iteration 3, since 2"
        )
        assert list(told_in(tmp_path)) == ["3"]
        played = {e.id: e.iteration for e in store.episodes("yes-man")}
        labels = Counter(played[label.episode] for label in store.labels("yes-man"))
        assert labels == {1: 32, 2: 32, 3: 64}
        assert [v.id for v in store.versions("yes-man") if v.parent][-1] == "learner-3"
