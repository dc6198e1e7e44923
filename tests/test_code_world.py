"""Programs are right when their tests pass, and no program passes in another way."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Agent, Sampling, Scripted
from superalign.protocols import load_protocol
from superalign.scenarios.code_checker import plain, value
from superalign.scenarios.code_world import Code, Exam, program, unfenced
from superalign.scenarios.sandbox import sandbox
from superalign.store import BadInput, Question

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data")
SOURCES = ("humaneval", "mbpp")


@pytest.fixture(scope="module")
def world():
    for source in SOURCES:
        if not (DATA / source).is_dir():
            pytest.skip(f"needs {source}; set $SUPERALIGN_DATA")
    try:
        sandbox()
    except BadInput as error:
        pytest.skip(str(error))
    return Code(DATA, SOURCES)


@pytest.fixture(scope="module")
def first(world):
    """HumanEval/0: has_close_elements."""
    return next(iter(world._entries.values())).task


def passes(tests: str, answer: str, native: str = "") -> bool:
    """Whether an answer that defines `f` passes these tests."""
    world = Code.__new__(Code)
    world.__dict__["_read"] = {"": (None, Exam(("f",), "", "", native, tests))}
    return world._run("", answer)


# The data.


def test_the_data_is_all_there(world):
    topics = [entry.task.question.topic for entry in world._entries.values()]
    assert (topics.count("humaneval"), topics.count("mbpp")) == (164, 969)
    assert world.cells == SOURCES


@pytest.mark.slow
def test_every_solution_passes_its_tests_and_an_empty_one_does_not(world):
    tasks = [entry.task for entry in world._entries.values()]
    assert [t for t in tasks if not world.correct(t.question, world.truth(t.question))] == []
    assert [t for t in tasks if world.correct(t.question, "pass")] == []


def test_solutions_of_every_fortieth_question_pass_and_wrong_ones_do_not(world):
    for entry in list(world._entries.values())[::40]:
        question = entry.task.question
        right = world.truth(question)
        assert world.correct(question, right)
        assert world.fault(question, right) is None
        (name,) = world._read[question.text][1].entries
        wrong = f"{right}\n_right = {name}\ndef {name}(*a, **k):\n    return [_right(*a, **k)]\n"
        assert not world.correct(question, wrong)
        assert world.fault(question, wrong) == len(wrong.strip().splitlines())


def test_a_question_of_mbpp_shows_one_test_and_keeps_the_rest(world):
    shown = [t.question.text for t, _ in world._read.values() if t.question.topic == "mbpp"]
    tests = [e.tests.strip() for t, e in world._read.values() if t.question.topic == "mbpp"]
    assert all("\n\nFor example:\n\nassert" in text for text in shown)
    told = sum(tests[i].splitlines()[-1] in text for i, text in enumerate(shown))
    assert told <= 0.01 * len(shown)  # tests that say the same twice


def test_training_and_held_out_questions_are_apart(world):
    train = {task.question for task in world.tasks(850, 1)}
    held = world.heldout(200)
    assert len(train) == 850
    assert not train & {task.question for task in held}
    assert all(world.cell(question) in SOURCES for question in train)
    assert all(world.cell(task.question) is None for task in held)
    assert [task.question.topic for task in held[:4]] == ["humaneval", "mbpp"] * 2


# What an answer may look like.


def test_an_answer_may_go_on_where_the_question_ends(world, first):
    body = world.truth(first.question).removeprefix(first.question.text)
    assert body.startswith("    ")
    assert world.correct(first.question, body)


def test_an_answer_may_stand_between_fences_after_some_words(world, first):
    answer = f"First try:\n```\nnonsense\n```\nBetter:\n```python\n{first.target}```\nDone."
    assert world.correct(first.question, answer)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\na\n```\nand\n```python\nb\n\nc\n```", "b\n\nc"),
        ("cut:\n```python\na\nb", "a\nb"),
        ("```\n```", ""),
    ],
)
def test_the_last_block_counts(answer, code):
    assert unfenced(answer) == code


def test_helpers_of_the_question_come_with_the_answer():
    exam = Exam(("f",), "def h(): return 1\ndef f():\n", "def h():\n    return 1", "", "")
    assert program(exam, "def f(): return h()").startswith("def h()")
    assert program(exam, "    return h()") == exam.start + "    return h()"
    assert program(exam, "def f(:") == exam.start + "def f(:"


def test_no_program_is_no_right_answer(world, first):
    for answer in ("", "I do not know.", "```python\n```", "\0", "\ud800", "(" * 5000):
        assert not world.correct(first.question, answer)


# What a program might try.

TESTS = "assert f(2) == 4\nassert f(3) == 9"


@pytest.mark.parametrize(
    "trick",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "class All:\n    def __eq__(self, other): return True\ndef f(x): return All()",
        "class All(int):\n    def __eq__(self, other): return True\ndef f(x): return All(5)",
        "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 0",
        "def f(x):\n    while True: pass",
        "import os, signal\ndef f(x): os.kill(os.getppid(), signal.SIGTERM)",
        "import sys\nsys.exit = None\nf = 3",
        "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass",
        "def f(x): return 'x' * 10**8",
        "def f(x):\n    y = []\n    y.append(y)\n    return y",
    ],
)
def test_no_trick_passes(trick, world):
    assert passes(TESTS, "def f(x): return x * x")
    assert not passes(TESTS, trick)


def test_a_program_cannot_find_its_tests(world):
    """It answers with what stands in its standard input, its arguments and /proc."""
    look = """
import os, sys
def f(x):
    os.lseek(0, 0, 0)
    found = [os.read(0, 10**6).decode()] + [a for a in sys.orig_argv if '975' + '31' in a]
    return "".join(found + [d for d in ('/proc/self', '/proc/1') if os.path.exists(d)])
"""
    assert passes("assert f(2) == ''  # 97531", look)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary()
        | st.complex_numbers(allow_nan=False),
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.frozensets(st.integers() | st.text())
            | st.sets(st.integers())
            | st.dictionaries(st.text() | st.integers(), inner)
        ),
        max_leaves=20,
    )
)
def test_values_cross_with_their_types(said):
    def typed(x):
        if isinstance(x, dict):
            return {typed(k): typed(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return type(x), [typed(i) for i in x]
        return type(x), x

    assert typed(value(plain(said))) == typed(said)


@pytest.mark.parametrize("odd", [object(), print, iter([]), {1: object()}, [int]])
def test_what_is_no_plain_data_does_not_cross(odd):
    with pytest.raises(TypeError, match="is no plain data"):
        plain(odd)


def test_what_nobody_sends_is_refused():
    with pytest.raises(ValueError, match="no such kind"):
        value(["object", 1])


# In a protocol.


@pytest.mark.parametrize("right", [True, False])
async def test_an_episode_settles_on_what_its_tests_say(right, world, setting, play, make):
    task = next(iter(world.tasks(1, 0)))
    learner = Agent(Scripted([task.target if right else "pass"]), "learner", Sampling())
    wanted = make.plans(1, **task.model_dump())
    (ended,) = await play(setting(load_protocol("direct"), world=world, learner=learner), wanted)
    assert ended.facts["settled"] is right
    assert ended.rewards == {"learner": float(right)}


def test_where_no_sandbox_holds_nothing_is_played(world, monkeypatch):
    def refused():
        raise BadInput("no sandbox: bubblewrap is missing")

    monkeypatch.setattr("superalign.scenarios.code_world.sandbox", refused)
    for ask in (lambda: world.tasks(1, 0), lambda: world.heldout(1)):
        with pytest.raises(BadInput, match="bubblewrap is missing"):
            ask()
    with pytest.raises(BadInput, match="bubblewrap is missing"):
        world.correct(next(iter(world._entries.values())).task.question, "never run before")


def test_missing_data_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"mbpp: no such folder; set world.path"):
        Code(tmp_path, ("mbpp",))


def test_a_question_of_another_world_has_no_cell(world):
    assert world.cell(Question(text="2+2")) is None
