"""What is stored can be run again without a model, and resumed after a kill, to the same words."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from langgraph.graph import START, StateGraph
from sqlalchemy import text

from superalign.protocols import Ask, Context, Protocol, State, Verdict, load_protocol
from superalign.protocols import stage as staging
from superalign.protocols.kernel import run_many
from superalign.protocols.replay import replay as replayed
from superalign.store import Store
from superalign.store.jsonl import read_jsonl, write_jsonl
from superalign.store.verify import verify

N = 6


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def kind(request):
    return request.param


@pytest.fixture
def told(setting, forbidden, new_place, tmp_path, store):
    """`told(alteration)`: what a replay says of a copy that was altered, models forbidden."""

    async def run(alteration: str = "", protocol=None, params=None, **values):
        store.flush()
        write_jsonl(store, tmp_path / "copy.jsonl")
        with Store.open(new_place(), write=True) as other:
            read_jsonl(tmp_path / "copy.jsonl", other)
            if alteration:
                with other.connect() as db:
                    assert db.execute(text(alteration), values).rowcount == 1
                    db.commit()
            seats = dict.fromkeys(("attacker", "learner", "critic"), forbidden)
            stage = setting(protocol, params, to=other, **seats)
            return [found for e in other.episodes("run") if (found := await replayed(stage, e))]

    return run


@pytest.fixture
async def ended(setting, play):
    """Six stored critiques."""
    return await play(setting(), N)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(staging, "PATIENCE", 0.05)


# Replay.


async def test_an_untouched_store_replays_without_a_divergence(ended, told):
    assert await told() == []


@pytest.mark.parametrize(
    "failure",
    [
        {"critic": ["maybe"]},
        {"calls": 3},
        {"steps": 2},
        {"learner": lambda request: 1 / 0},
        {"attacker": lambda request: None},
        {"attacker": ["\ud800\0"]},
    ],
    ids=["unreadable", "calls", "steps", "model", "no text", "hostile"],
)
async def test_failed_episodes_replay_too(failure, setting, play, forbidden, store):
    ended = await play(setting(**failure), 2)
    bounds = {name: value for name, value in failure.items() if name in ("calls", "steps")}
    stage = setting(**bounds, attacker=forbidden, learner=forbidden, critic=forbidden)
    assert [await replayed(stage, episode) for episode in store.episodes("run")] == [None, None]
    assert {e.status for e in ended} <= {"failed", "done"}


def siblings() -> Protocol:
    """One node raises after its call while another is between its own."""

    async def decide(state):
        return {"verdict": Verdict(value="x", seat="a")}

    async def raising(state, runtime):
        await runtime.context.cast["a"].act(state, Ask(kind="answer"))
        raise ValueError("boom")

    async def speaking(state, runtime):
        for _ in range(3):
            await runtime.context.cast["b"].act(state, Ask(kind="answer"))

    def build():
        graph = StateGraph(State, context_schema=Context)
        graph.add_node("raising", raising).add_node("speaking", speaking)
        graph.add_node("decide", decide).add_edge(START, "raising").add_edge(START, "speaking")
        return graph.add_edge(["raising", "speaking"], "decide")

    return Protocol("siblings", ("a", "b"), build, "hash")


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.02), (0.01, 0.004), (0.01, 0.02), (0.02, 0.0)])
async def test_failed_episodes_replay_whatever_their_siblings_did(
    a, b, setting, play, forbidden, store
):
    def after(seconds):
        async def reply(request):
            await asyncio.sleep(seconds)
            return "something"

        return reply

    await play(setting(siblings(), a=after(a), b=after(b)), 3)
    stage = setting(siblings(), a=forbidden, b=forbidden)
    assert [await replayed(stage, e) for e in store.episodes("run")] == [None] * 3
    assert verify(store)[1] == []


async def test_an_ambiguous_call_replays_as_one(setting, play, forbidden, store):
    async def both(state, runtime):
        seat = runtime.context.cast["a"]
        await asyncio.gather(*(seat.act(state, Ask(kind="answer")) for _ in "12"))

    def build():
        graph = StateGraph(State, context_schema=Context)
        return graph.add_node("both", both).add_edge(START, "both")

    protocol = Protocol("both", ("a",), build, "hash")
    (ended,) = await play(setting(protocol, a=["x"]))
    assert "asked twice at once" in str(ended.error)
    assert await replayed(setting(protocol, a=forbidden), ended) is None


async def test_an_altered_answer_is_one_divergence_with_a_diff(ended, told):
    victim = ended[2].by("learner")[1]
    alter = "UPDATE turns SET text = 'altered' WHERE episode = :e AND key = :k"
    (found,) = await told(alter, e=ended[2].id, k=victim.key)
    assert (found.episode, found.turn) == (ended[2].ref, victim.key)
    assert f"\n-{victim.text}\n+altered\n" in found.diff
    assert "altered after it was journalled" in found.what


@pytest.mark.parametrize(
    ("seat", "new"), [("attacker", "9+9"), ("critic", "Critique: 3"), ("critic", "maybe")]
)
async def test_an_altered_answer_is_found_in_every_seat(seat, new, ended, told):
    victim = ended[0].by(seat)[0]
    alter = "UPDATE turns SET text = :t WHERE episode = :e AND key = :k"
    (found,) = await told(alter, t=new, e=ended[0].id, k=victim.key)
    assert (found.episode, found.turn) == (ended[0].ref, victim.key)
    assert found.diff


async def test_an_alteration_that_nobody_read_is_found_by_its_hash(ended, told):
    victim = ended[0].turns[0]
    alter = "UPDATE turns SET seconds = 7 WHERE episode = :e AND key = :k"
    (found,) = await told(alter, e=ended[0].id, k=victim.key)
    assert (found.turn, found.what) == (victim.key, "altered after it was journalled")


async def test_a_deleted_turn_is_a_divergence(ended, told):
    victim = ended[1].by("critic")[0]
    alter = "DELETE FROM turns WHERE episode = :e AND key = :k"
    (found,) = await told(alter, e=ended[1].id, k=victim.key)
    assert (found.turn, found.what) == (victim.key, "this call was not recorded")


async def test_a_deleted_turn_of_a_failed_episode_is_a_divergence(setting, play, told):
    (ended,) = await play(setting(critic=["maybe"]))
    alter = "DELETE FROM turns WHERE key = :k"
    (found,) = await told(alter, k=ended.by("learner")[0].key)
    assert found.what == "this call was not recorded"


async def test_an_added_turn_is_a_divergence(ended, told, store, make):
    store.put_turn("run", ended[0].id, make.turn("9999:n:0000/critic:00"))
    (found,) = await told()
    assert (found.turn, found.what) == ("9999:n:0000/critic:00", "recorded but not asked for")


@pytest.mark.parametrize(
    ("column", "new", "what"),
    [
        ("truth", "5", "truth differs"),
        ("rewards", "{}", "rewards differs"),
        ("facts", "{}", "facts differs"),
        ("tags", '["x"]', "turns are missing or were added, or the episode was changed"),
    ],
)
async def test_a_changed_episode_is_a_divergence(column, new, what, ended, told):
    alter = f"UPDATE episodes SET {column} = :new WHERE id = :e"
    (found,) = await told(alter, new=new, e=ended[3].id)
    assert (found.episode, found.what) == (ended[3].ref, what)


async def test_a_changed_verdict_is_a_divergence_with_a_diff(ended, told):
    alter = "UPDATE verdicts SET value = 'bought' WHERE episode = :e"
    (found,) = await told(alter, e=ended[0].id)
    assert found.what == "verdict differs"
    assert "-verdict: {'value': 'bought'" in found.diff
    assert f"+verdict: {{'value': '{ended[0].verdict.value}'" in found.diff


async def test_a_changed_critique_is_a_divergence(ended, told):
    alter = "UPDATE critiques SET fault = 77 WHERE episode = :e AND turn = :t"
    (found,) = await told(alter, e=ended[0].id, t=ended[0].critiques[0].turn)
    assert found.what == "critiques differs"


@pytest.mark.parametrize("params", [{"samples": 2}, {"samples": 5}])
async def test_other_parameters_diverge_in_every_episode(params, ended, told):
    assert len(await told(params=params)) == N


async def test_another_protocol_diverges(ended, told, tmp_path):
    source = Path(load_protocol("critique").build.__code__.co_filename).read_text()
    changed = source.replace("Solve it step by step", "Solve it at once")
    text = changed.replace("from . import", "from superalign.protocols import")
    (tmp_path / "p.py").write_text(text)
    found = await told(protocol=load_protocol("critique", tmp_path / "p.py"))
    assert len(found) == N
    assert "-Solve it step by step" in found[0].diff
    assert "+Solve it at once" in found[0].diff


# Resume.


async def interrupted(stage, wanted, calls: int) -> list:
    """Episodes that ended before the run was cancelled, in the midst of its calls."""
    ended: list = []
    run = asyncio.ensure_future(run_many(stage, wanted, ended.append, 8))
    while stage.cast["learner"].model.calls < calls and not run.done():
        await asyncio.sleep(0.001)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    return ended


@pytest.fixture
def counted(setting, make):
    """A jittered critique whose agents count what they are asked."""

    def build(to):
        stage = setting(learner=make.jittered(make.chance("4", "5")), to=to)
        for agent in stage.cast.values():
            agent.model.calls, agent.model.asked = 0, Counter()
            agent.model.generate = counting(agent.model)
        return stage

    def counting(model):
        generate = model.generate

        def count(request):
            model.calls += 1
            model.asked[request.episode, request.seed] += 1
            return generate(request)

        return count

    return build


@pytest.mark.parametrize("calls", [1, 30, 70])
async def test_a_cancelled_run_goes_on_to_the_same_words(calls, counted, play, make, new_place):
    whole = await play(counted(None), make.plans(24, run="run"))
    again = new_place()
    with Store.open(again, write=True) as store:
        first = counted(store)
        done = await interrupted(first, make.plans(24), calls)
    with Store.open(again, write=True) as store:
        over = store.ended("run")
        assert over >= {episode.id for episode in done}  # who is told of lies on disk
        second = counted(store)
        rest = [plan for plan in make.plans(24) if second.episode_id(plan) not in over]
        await play(second, rest)
        hashes = [episode.transcript_hash for episode in store.episodes("run")]
        assert hashes == [episode.transcript_hash for episode in whole]
        assert verify(store)[1] == []
    asked = [stage.cast[seat].model.asked for stage in (first, second) for seat in first.cast]
    assert set(sum(asked, Counter()).values()) == {1}
    assert sum(asked, Counter()).total() == sum(len(episode.turns) for episode in whole)


async def test_journalled_answers_are_used_and_the_rest_is_asked(setting, play, make, store):
    (whole,) = await play(setting(), make.plans(1, run="whole"))
    for turn in whole.turns[:5]:
        store.put_turn("run", whole.id, turn)
        for message in store.messages(turn.messages).values():
            store.put_message(message, message.hash)
    await store.committed()
    asked: list = []

    def learner(request):
        asked.append(request.nth)
        return make.chance("4", "5")(request)

    (resumed,) = await play(setting(learner=learner))
    assert resumed.transcript_hash == whole.transcript_hash
    assert asked == list(range(4, len(whole.by("learner"))))


async def test_a_resumed_failure_stays_one(setting, play, make, store, forbidden):
    (whole,) = await play(setting(learner=lambda r: 1 / 0), make.plans(1, run="whole"))
    for turn in whole.turns:
        store.put_turn("run", whole.id, turn)
    await store.committed()
    (resumed,) = await play(setting(learner=forbidden, attacker=forbidden))
    assert (resumed.error, resumed.transcript_hash) == (whole.error, whole.transcript_hash)


async def test_other_prompts_end_a_resumed_run_with_the_difference(setting, play, make, store):
    (whole,) = await play(setting(), make.plans(1, run="whole"))
    store.put_turn("run", whole.id, whole.turns[0].model_copy(update={"text": "3+3"}))
    store.put_turn("run", whole.id, whole.by("learner")[0])
    await store.committed()
    with pytest.raises(Exception, match=r"was asked something else\n(.|\n)*-2\+2\n\+3\+3"):
        await play(setting())
