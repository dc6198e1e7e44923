"""Amplification: problems against networkx and brute force, the tree of questions, its rows."""

from __future__ import annotations

import random
from itertools import product

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.questions import question_tree
from superalign.protocols.setting import Plan
from superalign.scenarios import amplification as world
from superalign.scenarios import amplification_training as training
from superalign.scenarios.amplification import CELLS, Amplification, Problem, Read, Sub
from superalign.scenarios.amplification_players import decompose, guess
from superalign.store import BadInput, Question, Task

AMPLIFICATION = load_protocol("amplification")
POWERS = "powering: 0 1; 1 2; 2 3; 3 4; 4 5; 5 0 ? 3 1"

POWERING = Problem("powering", tuple((x, (x + 1) % 6) for x in range(6)), (3, 1))

problems = st.builds(
    lambda kind, seed, held: world.draw(kind, random.Random(seed), held=held),
    st.sampled_from(CELLS),
    st.integers(0, 2**32),
    st.booleans(),
)


# The five tasks.


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (POWERS, "4"),
        ("union: 0 0; 1 0; 2 1; 3 3; 4 3; 5 4 ? 2", "0"),
        ("path: 0 1 2; 1 2 3; 2 3 4; 3 4 5; 4 0 5; 5 0 1 ? 3 0 5", "3"),
        ("path: 0 1 2; 1 2 3; 2 3 4; 3 4 5; 4 0 5; 5 0 1 ? 2 0 5", "3"),  # more than 2
        (
            "wildcard: 0 0 0 1; 1 0 0 1; 0 1 0 -1; 1 1 0 0; 0 0 1 1; 1 0 1 0; 0 1 1 0; 1 1 1 1"
            " ? 2 2 1",
            "2",
        ),
        (
            "assignments: 0 0 0 1; 0 0 1 2; 0 0 2 0; 0 1 0 2; 0 1 1 0; 0 1 2 1; 0 2 0 0; 0 2 1 1;"
            " 0 2 2 2; 2 0 1; 2 1 2; 1 2 0 1; 1 3 2 2; 1 4 3 0; 1 5 4 4 ? 3",
            "0",  # f(1, 2) = 1, f(1, 1) = 0
        ),
    ],
)  # fmt: skip
def test_known_answers(text, answer):
    assert Amplification().truth(Question(text=text)) == answer


@given(problems)
def test_taking_a_problem_apart_gives_the_truth(problem):
    assert world.solve(problem) == world.truth(problem)


@given(problems)
def test_a_problem_reads_back_from_its_text(problem):
    assert world.parse(problem.text) == problem


@given(st.integers(0, 2**32))
def test_powers_are_those_of_the_permutation_composed(seed):
    _, facts, query = world.draw("powering", random.Random(seed))
    step = [to for _, to in sorted(facts)]
    power = tuple(range(world.SIZE))
    for _ in range(query[0]):
        power = tuple(step[x] for x in power)
    assert world.truth(Problem("powering", facts, query)) == power[query[1]]


@given(st.integers(0, 2**32))
def test_sums_are_those_of_the_spelt_out_wildcards(seed):
    problem = world.draw("wildcard", random.Random(seed))
    spelt = product(*((0, 1) if q == 2 else (q,) for q in problem.query))
    values = {fact[:-1]: fact[-1] for fact in problem.facts}
    assert world.truth(problem) == sum(values[bits] for bits in spelt)


@given(st.integers(0, 2**32))
def test_distances_are_the_lengths_of_paths_that_are_there(seed):
    problem = world.draw("path", random.Random(seed))
    k, s, t = problem.query
    graph = nx.DiGraph([(u, v) for u, *ends in problem.facts for v in ends])
    lengths = [len(path) - 1 for path in nx.all_simple_paths(graph, s, t)] if s != t else [0]
    assert world.truth(problem) == min([*lengths, k + 1])


@given(problems)
def test_a_human_asks_for_easier_problems_and_reads_few_facts(problem):
    """So it cannot hold the answer: each step sees at most three facts of at least six."""
    steps, sent, reads = world.human(problem.kind, problem.query), None, 0
    asked = []
    try:
        while True:
            step = next(steps) if sent is None else steps.send(sent)
            if isinstance(step, Read):
                reads += 1
                sent = world.read(problem.facts, step.start)
            else:
                assert isinstance(step, Sub)
                asked.append(problem._replace(query=step.query))
                sent = (world.truth(asked[-1]),)
    except StopIteration:
        pass
    assert reads <= 3 and len(asked) <= 2
    assert all(depth(sub) < depth(problem) for sub in asked)


def depth(problem: Problem) -> int:
    """How many steps of taking apart lie below a problem."""
    deepest = [0]

    def answer(query):
        deepest.append(1 + depth(problem._replace(query=query)))
        return world.truth(problem._replace(query=query))

    world.amplify(problem, answer)
    return max(deepest)


@given(problems, st.data())
def test_a_wrong_sub_answer_never_breaks_the_human(problem, data):
    answer = data.draw(st.integers(-9, 9))
    assert isinstance(world.amplify(problem, lambda query: answer), int)


@pytest.mark.parametrize(
    "text",
    [
        "",
        POWERS + " ",
        POWERS.replace("5 0", "5 1"),  # no permutation
        POWERS.replace("; 5 0", ""),
        POWERS.replace("? 3 1", "? 0 1"),
        POWERS.replace("? 3 1", "? 3 9"),
        POWERS.replace("? 3 1", "? 3"),
        "union: 0 1; 1 0; 2 2; 3 3; 4 4; 5 5 ? 0",  # no tree
        "union: 0 0; 1 0; 2 0; 3 0; 4 0; 5 9 ? 5",
    ],
)
def test_what_is_no_problem_lies_in_no_cell(text):
    assert Amplification().cell(Question(text=text)) is None


def test_training_never_meets_a_held_out_problem():
    made = Amplification()
    held, drawn = made.heldout(500), list(made.tasks(500, seed=1))
    assert not {t.question.text for t in held} & {t.question.text for t in drawn}
    assert all(made.cell(t.question) == t.question.topic for t in drawn)
    assert all(made.cell(t.question) is None for t in held)
    assert [t.key for t in held] == [t.key for t in Amplification().heldout(500)]
    assert all(made.truth(t.question) == t.target for t in [*held, *drawn])


def test_held_out_tasks_are_limited_and_the_remedy_is_named():
    with pytest.raises(BadInput, match="at most 1000"):
        Amplification(("union",)).heldout(1001)
    with pytest.raises(BadInput, match="no 'sums'; one of powering"):
        Amplification().topic("sums")


# The protocol.


def plan(problem: Problem, seed: int = 0) -> Plan:
    task = Task(question=Question(topic=problem.kind, text=problem.text))
    return Plan(run="run", scenario="s", index=seed, task=task, seed=seed)


def knows(request) -> str:
    """A learner that is right about sub-questions, and says nothing alone."""
    problem, about = world.parse(request.view.question.text), request.view.ask.about
    if not about:
        return "no idea"
    query = tuple(map(int, about[0].text.removeprefix("Ask: ").split()))
    assert problem is not None
    return str(world.truth(problem._replace(query=query)))


@pytest.mark.parametrize("params", [{"questions": 8, "depth": 1}, {"questions": 2, "depth": 3}])
async def test_the_protocol_is_sound(params):
    report = await check_protocol(AMPLIFICATION, AMPLIFICATION.params(params))
    assert report.ok, report.problems


@pytest.mark.parametrize("depth", [1, 2, 4])
async def test_a_human_with_help_answers_what_the_learner_alone_cannot(depth, setting, play):
    rng = random.Random(depth)
    wanted = [plan(world.draw(CELLS[i % 5], rng), i) for i in range(25)]
    params = {"questions": 2, "depth": depth}
    stage = setting(AMPLIFICATION, params, world=Amplification(), human=decompose, learner=knows)
    for ended in await play(stage, wanted):
        assert ended.error is None and ended.facts["settled"]
        assert ended.rewards == {"human": 1.0, "learner": 0.0}


async def test_the_tree_of_questions_is_read_off_the_transcript(setting, play):
    stage = setting(
        AMPLIFICATION,
        {"questions": 2, "depth": 2},
        world=Amplification(),
        human=decompose,
        learner=knows,
    )
    (ended,) = await play(stage, [plan(POWERING)])
    tree = question_tree(ended)
    assert nx.is_arborescence(tree)
    said = sorted((n["depth"], n["text"], n["answer"], n["seat"]) for _, n in tree.nodes.data())
    assert said == [
        (0, POWERS, "4", "human"),
        (1, "1 1", "2", "human"),
        (1, "2 2", "4", "human"),
        (2, "1 2", "3", "learner"),
        (2, "1 3", "4", "learner"),
    ]


async def test_an_error_below_is_taken_over_above(setting, play):
    stage = setting(
        AMPLIFICATION,
        {"depth": 1},
        world=Amplification(),
        human=decompose,
        learner=lambda request: "5" if request.view.ask.about else "4",
    )
    (ended,) = await play(stage, [plan(POWERING)])
    assert (ended.verdict.answer, ended.facts["settled"]) == ("5", False)
    assert list(ended.facts["correct"].values()) == [True]  # alone it was right


async def test_a_learner_is_shown_its_sub_question_and_no_other(setting, play):
    shown = []

    def watch(request):
        if request.view.ask.kind == "subanswer":
            shown.append([turn.text for turn in request.view.ask.about])
        return knows(request)

    stage = setting(AMPLIFICATION, world=Amplification(), human=decompose, learner=watch)
    await play(stage, [plan(POWERING)])
    assert shown == [["Ask: 1 1"], ["Ask: 2 2"]]


async def test_rows_are_the_amplified_answer_and_each_step(setting, play, store):
    stage = setting(AMPLIFICATION, world=Amplification(), human=decompose, learner=knows)
    (ended,) = await play(stage, [plan(POWERING)])

    def prompt_of(turn):
        found = store.messages(turn.messages)
        return tuple(found[key] for key in turn.messages)

    assert AMPLIFICATION.rule is not None
    (row,) = AMPLIFICATION.rule(ended, "learner", prompt_of)
    assert row.replies == ("4",) and POWERS in row.prompt[-1].content
    assert row.turns == tuple(f"{ended.ref}/{t}" for t in (ended.turns[0].key, ended.verdict.turn))
    steps = list(AMPLIFICATION.rule(ended, "human", prompt_of))
    assert [step.replies for step in steps] == [("Ask: 1 1",), ("Ask: 2 2",), ("Answer: 4",)]
    assert "Ask: 2 2" not in steps[1].prompt[-1].content
    assert list(AMPLIFICATION.rule(ended, "critic", prompt_of)) == []


@pytest.mark.parametrize("said", ["", "Ask:", "What is s(1)?", "Ask: a\nAsk: b", "answer: 4"])
async def test_a_step_that_cannot_be_read_fails_the_episode(said, setting, play):
    (ended,) = await play(setting(AMPLIFICATION, learner=["4"], human=[said]))
    assert ended.status == "failed" and "expected one line, `Ask: …` or `Answer: …`" in ended.error


async def test_who_asks_on_after_the_last_question_fails_the_episode(setting, play):
    (ended,) = await play(setting(AMPLIFICATION, {"questions": 1}, learner=["4"], human=["Ask: x"]))
    assert ended.status == "failed" and "expected one line, `Answer: …`" in ended.error


async def test_scripted_seats_disagree_now_and_then_and_never_fail(setting, play):
    rng = random.Random(5)
    wanted = [plan(world.draw(CELLS[i % 5], rng), i) for i in range(60)]
    stage = setting(AMPLIFICATION, world=Amplification(), human=decompose, learner=guess)
    ended = await play(stage, wanted)
    assert all(one.error is None for one in ended)
    assert {one.facts["settled"] for one in ended} == {True, False}


# Training.


def test_amplified_answers_are_the_truth_when_sub_answers_are():
    for kind in CELLS:
        pool = training.draw_pool(kind, 60, seed=1)

        def right(facts, queries, pool=pool):
            whose = {
                tuple(f.flatten().tolist()): p
                for f, p in zip(pool.facts, pool.problems, strict=True)
            }
            return [
                world.truth(whose[tuple(f.flatten().tolist())]._replace(query=query))
                for f, query in zip(facts, queries, strict=True)
            ]

        assert training.amplified(pool, right) == (pool.truths - training.OFFSET).tolist()


def test_training_on_its_own_amplification_reads_no_truth():
    """With every truth replaced by nonsense the same solver comes out."""
    recipe = training.Recipe(steps=3, batch=16, width=16, layers=1, heads=2)
    pool = training.draw_pool("union", 64, seed=1)
    a = training.train("union", "amplify", pool, recipe, seed=3)
    blind = pool._replace(truths=torch.zeros_like(pool.truths))
    b = training.train("union", "amplify", blind, recipe, seed=3)
    for one, other in zip(a.solver.parameters(), b.solver.parameters(), strict=True):
        assert torch.equal(one, other)
    assert a.questions == 3 * 16
