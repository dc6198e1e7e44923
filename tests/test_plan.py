"""What a run will cost is told before it is begun, and never too low."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.scenarios import planning
from superalign.scenarios.planning import plan_scenario
from superalign.scenarios.resolve import resolve
from superalign.scenarios.scenario import Loaded
from superalign.store import Question, Store, Task

FakeServer = runpy.run_path(str(Path(__file__).parent / "fake_server.py"))["FakeServer"]
SEATS = {
    "blind": ("judge",),
    "debate": ("debater_a", "debater_b", "judge"),
    "open_debate": ("debater_a", "debater_b", "judge"),
    "vote": ("learner",),
}


@pytest.fixture
def server():
    with FakeServer() as opened:
        yield opened


@pytest.fixture
def scenario(server, tmp_path, monkeypatch):
    """`scenario(protocol, keys of the model)`: six episodes on questions of growing length."""
    monkeypatch.chdir(tmp_path)
    lines = ({"q": "why? " * i, "a": ["no", "yes"], "right": "yes"} for i in range(1, 31))
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def write(protocol: str, **model) -> Path:
        columns = "{text: q, choices: a, target: right}"
        engine = {"engine": "openai", "model": "tiny", "base_url": server.url, **model}
        seats = "".join(f"  {seat}: {{model: big, max_tokens: 20}}\n" for seat in SEATS[protocol])
        path = tmp_path / "planned.yaml"
        path.write_text(
            f"name: planned\nworld: {{kind: dataset, path: ./asked.jsonl, columns: {columns}}}\n"
            f"models:\n  big: {json.dumps(engine)}\nprotocol: {{name: {protocol}}}\n"
            f"cast:\n{seats}episodes: 6\n"
        )
        return path

    return write


def planned(path: Path, *overrides: str) -> dict:
    return plan_scenario(resolve(Loaded.read(path, overrides)))


def test_one_call_an_episode_is_counted_exactly(scenario, server):
    facts = planned(scenario("blind", price={"input": 2.0, "output": 10.0}))
    (big,) = facts["models"]
    assert facts["calls"] == {"most": 6, "about": 6}
    assert big["completion_tokens"] == {"most": 6 * 20, "about": 6 * 10}
    cost = (2.0 * big["prompt_tokens"]["most"] + 10.0 * 120) / 1e6
    assert facts["price"]["most"] == pytest.approx(cost, abs=1e-4)
    assert server.calls == []  # nobody was asked


@pytest.mark.parametrize("protocol", SEATS)
def test_a_run_never_takes_more_than_was_planned(superalign, scenario, server, protocol):
    def usage(body, text):
        """As a tokenizer of bytes counts, with six tokens around each message."""
        sizes = [len(message["content"].encode()) + 6 for message in body["messages"]]
        return {"prompt_tokens": sum(sizes), "completion_tokens": len(text)}

    server.usage = usage
    server.honours = ("json",)
    server.say = lambda body: ("x" * body["max_tokens"]) if body["max_tokens"] == 20 else "probe"
    path = scenario(protocol)
    (told,) = planned(path)["models"]
    code, _, err = superalign("run", path)
    assert code == 0, err
    with Store.open("runs/planned-1/store.sqlite") as store:
        turns = [turn for e in store.episodes("planned-1") for turn in e.turns]
    assert len(turns) == told["calls"]["most"]
    assert sum(turn.prompt_tokens for turn in turns) <= told["prompt_tokens"]["most"]
    assert sum(turn.completion_tokens or 0 for turn in turns) <= told["completion_tokens"]["most"]


def test_the_questions_looked_at_are_those_that_are_asked(superalign, scenario):
    path = scenario("blind")
    resolved = resolve(Loaded.read(path, ("iterations=3",)))
    superalign("run", path, "--set", "iterations=3")
    with Store.open("runs/planned-1/store.sqlite") as store:
        asked = [e.question for e in store.episodes("planned-1")]
    told = [task.question for task in planning._tasks(resolved)]
    assert sorted(told, key=str) == sorted(asked, key=str)
    assert len({q.text for q in told}) > 6  # not the same six each time


def test_questions_that_were_not_looked_at_are_told(superalign, scenario, monkeypatch):
    path = scenario("blind")
    assert "not looked at" not in superalign("plan", path)[1]
    monkeypatch.setattr(planning, "LOOKED_AT", 4)
    assert "2 questions were not looked at" in superalign("plan", path)[1]
    assert planned(path)["unseen"] == 2


parts = st.text(max_size=12)
tasks = st.builds(
    lambda text, topic, choices, private: Task(
        question=Question(text=text, topic=topic, choices=choices), private=private
    ),
    parts,
    parts,
    st.lists(parts, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["judge", "debater_a"]), parts),
)


@given(st.lists(tasks, min_size=1, max_size=6))
def test_no_question_is_longer_than_the_longest_in_any_part(some):
    def sizes(task: Task) -> list[int]:
        choices = (*task.question.choices, "", "", "")[:3]
        told = (task.private.get(seat, "") for seat in ("judge", "debater_a"))
        return [len(t.encode()) for t in (task.question.text, task.question.topic, *choices, *told)]

    bound = planning.longest(some)
    assert len(set(bound.question.choices)) == len(bound.question.choices)
    for task in some:
        assert all(a <= b for a, b in zip(sizes(task), sizes(bound), strict=True))


def test_calls_are_those_of_check_and_grow_with_the_episodes(superalign, scenario):
    path = scenario("debate")
    calls = json.loads(superalign("check", path, "--json")[1])["max_calls"]
    assert planned(path)["calls"]["most"] == 6 * calls
    assert planned(path, "iterations=3")["calls"]["most"] == 18 * calls


def test_tests_are_counted_for_the_base_and_every_version(scenario):
    main = Path(__file__).parent.parent / "scenarios" / "arithmetic.yaml"
    small = ("episodes=8", "iterations=2", "evaluate.heldout=30")
    without = planned(main, "episodes=8", "iterations=2", "evaluate=null")["calls"]["most"]
    assert planned(main, *small)["calls"]["most"] == without + 3 * 30


def test_a_price_that_is_not_given_is_not_guessed(superalign, scenario):
    path = scenario("blind")
    code, out, _ = superalign("plan", path, "--json")
    facts = json.loads(out)
    assert (code, facts["price"], facts["models"][0]["price"]) == (0, None, None)
    assert "its price is not known; add" in superalign("plan", path)[1]
    assert (
        "at most"
        in superalign("plan", path, "--set", "models.big.price={input: 1.0, output: 1.0}")[1]
    )


def test_a_plan_of_a_bad_scenario_says_where_it_is_bad(superalign, scenario):
    path = scenario("blind", price={"input": -1.0, "output": 1.0})
    code, _, err = superalign("plan", path)
    assert (code, "models.big.price.input: input should be greater than or equal to 0" in err) == (
        2,
        True,
    )
