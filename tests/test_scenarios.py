"""Scenario files: those that ship load, overrides are held to the same grammar, names are found."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Ask, Request, Sampling, View, chat, tags, view
from superalign.scenarios.archive import Archive, spread
from superalign.scenarios.resolve import build_cast, build_models, check_words, oracle, resolve
from superalign.scenarios.scenario import (
    Loaded,
    Scenario,
    scenario_hash,
    scenario_schema,
)
from superalign.scenarios.yaml_source import parse_override
from superalign.store import BadInput, Question, Verdict

ROOM = Path(__file__).parent.parent / "scenarios"
SHIPPED = sorted(ROOM.glob("*.yaml"))
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOM.parent.parent / "shared" / "data")


REQUEST: dict[str, Any] = {
    "messages": (),
    "sampling": Sampling(),
    "seed": 0,
    "policy": "p",
    "episode": "e",
    "nth": 0,
}


@pytest.fixture
def players(folder):
    """`players(overrides…)`: the scripted scenario, read."""
    return lambda *overrides: Loaded.read(folder / "players.yaml", overrides)


# The scenarios that ship.


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_loads(path):
    assert Loaded.read(path).scenario.name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_resolves(path, monkeypatch):
    monkeypatch.setenv("SUPERALIGN_DATA", str(DATA))
    try:
        resolved = resolve(Loaded.read(path))
    except BadInput as error:
        if DATA.is_dir() or "$SUPERALIGN_DATA" not in str(error):
            raise
        pytest.skip(str(error))  # the data are not a part of this project
    assert set(resolved.loaded.scenario.cast) == set(resolved.protocol.seats)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_names_its_schema(path):
    first = path.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=./scenario.schema.json"


def test_the_schema_file_is_current():
    """`make schema` writes it."""
    assert (ROOM / "scenario.schema.json").read_text() == scenario_schema()


def test_every_key_is_described_in_the_docs():
    documented = (ROOM.parent / "docs" / "scenarios.md").read_text()
    schema = json.loads(scenario_schema())
    tables = [schema, *schema["$defs"].values()]
    keys = {key for table in tables for key in table.get("properties", {})}
    assert [key for key in sorted(keys) if f"`{key}`" not in documented] == []


# Loading.


def test_what_is_stored_of_a_scenario_reads_back_as_the_same(players):
    scenario = players().scenario
    again = Scenario.model_validate_json(json.dumps(scenario.model_dump(mode="json")))
    assert again == scenario
    assert scenario_hash(again) == scenario_hash(scenario)


def test_every_default_is_filled_in(players):
    kept = players().scenario.model_dump(mode="json")
    assert kept["iterations"] == 1
    assert kept["limits"] == {"calls": 256, "steps": 128, "failed_share": 0.05}
    assert kept["cast"]["learner"]["temperature"] == 1.0


def test_a_parameter_stands_beside_the_protocol_s_name(players):
    assert players().scenario.protocol.params == {"samples": 2}
    assert resolve(players()).params == {"samples": 2, "revisions": 1}


# --set


@pytest.mark.parametrize(
    ("text", "loc", "value"),
    [
        ("seed=1", ("seed",), 1),
        ("cast.learner.model=big", ("cast", "learner", "model"), "big"),
        ("learn={method: exo, beta: 0.2}", ("learn",), {"method": "exo", "beta": 0.2}),
        ("a=b=c", ("a",), "b=c"),
        ("evaluate=", ("evaluate",), None),
        ('name="1"', ("name",), "1"),
        ("on=true", ("on",), True),
        ("on=yes", ("on",), "yes"),
    ],
)
def test_an_override_is_a_key_and_a_yaml_value(text, loc, value):
    assert parse_override(text) == (loc, value)


def test_an_override_changes_its_key_alone(players):
    plain, changed = players().scenario, players("cast.learner.temperature=0.5").scenario
    assert changed.cast["learner"].temperature == 0.5
    reset = changed.cast["learner"].model_copy(update={"temperature": 1.0})
    assert changed.model_copy(update={"cast": {**changed.cast, "learner": reset}}) == plain


def test_the_last_override_counts(players):
    assert players("seed=1", "seed=2").scenario.seed == 2


def test_an_override_makes_the_blocks_on_its_way(players):
    assert players("labels.human.budget=5").scenario.labels.human.budget == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "--set seed: expected key=value"),
        ("=1", "--set =1: expected key=value"),
        ("a..b=1", "--set a..b=1: expected key=value"),
        ("seed=many", "--set seed=many: seed: input should be a valid integer"),
        ("sed=1", "--set sed=1: sed: unknown key; did you mean 'seed'?"),
        ("limits.call=1", "--set limits.call=1: limits.call: unknown key; did you mean 'calls'?"),
        ("name.first=x", "--set name.first: name is no mapping"),
        ("seed=[1", "--set seed=[1: not readable as YAML"),
        ("seed=&a [*a]", "--set seed=&a [*a]: anchors and aliases are not read"),
        ("seed=!!python/name:os.system", "tags such as tag:yaml.org,2002:python/name:os.system"),
        ("name=2026-11-24", "--set name=2026-11-24: is read as a timestamp"),
        ("cast.critic.temperature=.nan", "is no finite number"),
        ("seed=" + "9" * 5000, "write a number of fewer digits"),
        ("protocol.samples=1", "--set protocol.samples=1: protocol.samples: "),
        ("protocol.path=../p.py", "lies outside"),
        ("cast.critic.model=big", "--set cast.critic.model=big: cast.critic.model: no model 'big'"),
    ],
)
def test_a_wrong_override_is_named(text, message, players):
    with pytest.raises(BadInput) as refused:
        resolve(players(text))
    assert message in str(refused.value)
    assert str(refused.value).startswith("--set ")


# Resolving.


def test_no_code_is_run_when_none_may_be(folder, players):
    (folder / "trap.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(BadInput, match="SystemExit: it ran"):
        resolve(players("protocol.path=trap.py"))
    check_words(players("protocol.path=trap.py"))
    check_words(players("models.asks.function=trap.py:x"))


def test_a_link_does_not_lead_out_of_the_folder(folder, players, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "p.py"
    outside.write_text("")
    (folder / "p.py").symlink_to(outside)
    with pytest.raises(BadInput, match="lies outside"):
        resolve(players("protocol.path=p.py"))


def test_the_cast_sits_as_the_scenario_says(players):
    resolved = resolve(players("cast.learner.max_tokens=7"))
    cast = build_cast(resolved, build_models(resolved), {"learner": "learner-2"})
    assert {seat: agent.policy for seat, agent in cast.items()} == {
        "attacker": "asks",
        "learner": "learner-2",
        "critic": "truth",
    }
    assert cast["learner"].sampling.max_tokens == 7
    assert [seat for seat, agent in cast.items() if agent.source == "oracle"] == ["critic"]


def test_mute_models_speak_the_dialect_of_the_live_ones():
    resolved = resolve(Loaded.read(ROOM / "arithmetic.yaml"))
    assert [m.dialect for m in build_models(resolved, frozenset()).values()] == [tags]
    told = Loaded.read(ROOM / "arithmetic.yaml", ("models.tiny.dialect=chat",))
    assert [m.dialect for m in build_models(resolve(told), frozenset()).values()] == [chat]


def judged(question, turn):
    return view("critic", question, None, Ask(kind="critique", about=(turn,)))


def test_the_oracle_is_a_perfect_critic(players, make):
    world = resolve(players()).world
    (plan,) = make.plans(1, question=Question(text="24+36"))
    right, wrong = (make.turn(text=text) for text in ("4+6=10;2+3+1=6;60", "4+6=10;2+3+1=7;70"))
    replies = [
        oracle(world)(Request(view=judged(plan.task.question, about), **REQUEST))
        for about in (right, wrong)
    ]
    assert replies == ["Critique: ok", "Critique: 2"]


def test_the_oracle_writes_critiques_and_nothing_else(players, make):
    view = View(seat="a", question=Question(), private=None, ask=Ask(kind="answer"))
    with pytest.raises(ValueError, match="not 'answer'"):
        oracle(resolve(players()).world)(Request(view=view, **REQUEST))


# The archive.


def attacked(make, **hits):
    """An archive that has seen ten attacks on each cell, and as many hits as given."""
    archive = Archive(tuple(hits))
    for cell, number in hits.items():
        for i in range(10):
            (plan,) = make.plans(1, question=Question(topic=cell))
            verdict = Verdict(value="failed" if i < number else "solved", seat="critic")
            archive.add([make.episode(task=plan.task, verdict=verdict)])
    return archive


def test_a_rate_is_the_mean_of_its_posterior(make):
    archive = attacked(make, easy=0, hard=10)
    assert archive.rate("easy") == pytest.approx(1 / 12)
    assert archive.rate("hard") == pytest.approx(11 / 12)
    assert Archive(["new"]).rate("new") == 0.5


def test_a_failed_episode_is_no_attack(make):
    archive = Archive(["easy"])
    archive.add([make.episode(status="failed")])
    assert archive.rate("easy") == 0.5


def test_attacks_go_to_where_the_learner_fails_and_never_all(make):
    shares = attacked(make, easy=0, medium=5, hard=10).steer(1000)
    assert shares.count("hard") > 4 * shares.count("medium") > 4 * shares.count("easy") * 4 > 0


@given(st.integers(0, 500), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1))
def test_exactly_as_many_cells_as_asked_for(n, seen):
    archive = Archive([f"c{i}" for i in range(len(seen))])
    for i, (hits, misses) in enumerate(seen):
        archive.hits[f"c{i}"], archive.attacks[f"c{i}"] = hits, hits + misses
    assert len(archive.steer(n)) == n
    assert archive.steer(n) == archive.steer(n)


@given(st.integers(0, 100), st.integers(1, 9))
def test_a_spread_is_even(n, cells):
    counts = [spread(range(cells), n).count(cell) for cell in range(cells)]  # type: ignore[arg-type]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1
