"""Stored episodes judged again by one seat, forked at a turn, rescored; and forks of forks."""

import random
from pathlib import Path

import pytest

from superalign.agents import Sampling
from superalign.protocols import load_protocol
from superalign.protocols.branch import fork, fork_point, rejudgements, rescore, score_of
from superalign.protocols.check import check_protocol
from superalign.protocols.kernel import play_all
from superalign.protocols.replay import replay
from superalign.store import BadInput
from superalign.store.verify import verify

NESTED = Path(__file__).parent / "nested.py"
SEATS = {
    "critique": {"attacker": "question", "learner": "answer"},
    "panel": {"asker": "question", "expert": "answer"},
    "exchange": {"left": "answer", "right": "answer"},
}


def protocol(name):
    return load_protocol(name, None if name == "critique" else NESTED)


def speak(request):
    if request.view.ask.kind == "question":
        return f"{request.seed % 90}+1"
    return random.Random(request.seed).choice(["4", "5"])


def honest(request):
    return "ok" if request.view.ask.about[0].text == "4" else "1"


def lenient(request):
    return "ok"


@pytest.fixture(params=list(SEATS))
def told(request, setting, play, store, forbidden):
    """(a setting of the protocol with another critic, its twelve stored episodes)."""
    name = request.param

    def staged(critic=honest, speaker=speak, **more):
        others = dict.fromkeys(SEATS[name], speaker)
        params = {"samples": 2} if name == "critique" else {}
        return setting(protocol(name), params, **others, critic=critic, **more)

    async def made():
        await play(staged(), 12)
        return staged

    return made


async def again(store, run, setting, seat="critic", known=lambda id: ()):
    """Judge `run` again in `again`; (episodes, divergences)."""
    stages = list(rejudgements(store.load(run), "again", seat, lambda e: setting, known))
    ended = []
    await play_all(store, stages, ended.append, 4)
    return ended, [stage.divergence for stage in stages if stage.divergence]


@pytest.mark.parametrize("name", ["panel", "exchange"])
async def test_the_small_protocols_hold_to_the_rules(name):
    report = await check_protocol(protocol(name), protocol(name).params({}))
    assert (report.ok, report.problems) == (True, ())


async def test_the_same_judge_says_the_same_and_nobody_else_is_asked(told, store, forbidden):
    staged = await told()
    _, diverged = await again(store, "run", staged(speaker=forbidden))
    assert diverged == []
    before, after = list(store.episodes("run")), list(store.episodes("again"))
    assert [e.transcript_hash for e in after] == [e.transcript_hash for e in before]
    assert [e.rewards for e in after] == [e.rewards for e in before]
    assert [e.parent for e in after] == [e.ref for e in before]
    assert verify(store)[1] == []


async def test_another_judge_is_kept_beside_the_first(told, store, forbidden):
    staged = await told()
    await again(store, "run", staged(critic=lenient, speaker=forbidden))
    done = [e for e in store.episodes("again") if e.status == "done"]
    assert done and all(c.fault is None for e in done for c in e.critiques)
    store.put_scores([score_of(e, "anna", "too strict?") for e in done])
    scores = store.scores("run")
    assert {(s.name, s.author, s.reason) for s in scores} == {("again", "anna", "too strict?")}
    assert {s.episode: s.verdict for s in scores} == {
        e.parent.split("/")[1]: e.verdict for e in done
    }
    assert all(s.at > 1.7e9 for s in scores)


async def test_a_branch_replays_like_any_other(told, store, forbidden):
    staged = await told()
    await again(store, "run", staged(critic=lenient, speaker=forbidden))
    mute = staged(critic=forbidden, speaker=forbidden)
    for episode in store.episodes("again"):
        if episode.status == "done":
            assert await replay(mute, episode) is None


async def test_where_another_seat_would_have_to_speak_it_fails_and_says_so(
    setting, play, store, forbidden
):
    await play(setting(learner=["5"], critic=["ok"]), 2)
    ended, diverged = await again(
        store, "run", setting(attacker=forbidden, learner=forbidden, critic=["1"])
    )
    assert {e.status for e in ended} == {"failed"}
    assert all("this call was not recorded" in str(e.error) for e in ended)
    assert [d.turn for d in diverged] == ["0004:revise:0000/learner:00"] * 2
    mute = setting(attacker=forbidden, learner=forbidden, critic=forbidden)
    assert [await replay(mute, e) for e in store.episodes("again")] == [None, None]
    assert all(e.rewards == {} for e in ended)


async def test_what_was_drawn_otherwise_diverges(told, store, forbidden):
    staged = await told()
    other = staged(speaker=forbidden)
    for seat, agent in other.cast.items():
        changed = agent.__class__(agent.model, agent.policy, Sampling(temperature=0.5))
        other.cast[seat] = changed
    ended, diverged = await again(store, "run", other)
    assert len(diverged) == len(ended) == 12
    assert {d.what for d in diverged} == {"was drawn otherwise"}


async def test_an_altered_answer_diverges_in_a_re_judgement(told, store, forbidden):
    from sqlalchemy import text

    staged = await told()
    store.flush()
    with store.connect() as db:
        victim = db.execute(
            text("SELECT episode, key FROM turns WHERE seat != 'critic' ORDER BY episode, key")
        ).first()
        change = "UPDATE turns SET text = text || '0' WHERE episode = :e AND key = :k"
        db.execute(text(change), {"e": victim[0], "k": victim[1]})
        db.commit()
    _, (found,) = await again(store, "run", staged(speaker=forbidden))
    assert found.turn == victim[1]
    assert "altered" in found.what


# Forks.


async def test_a_fork_keeps_what_came_before_and_goes_on_live(told, store, forbidden):
    staged = await told()
    episode, journal = next(store.load("run"))
    for entry in journal:
        at = entry.turn.key
        stage = fork(staged(critic=lenient), episode, journal, at, f"fork-{at}")
        ended = []
        await play_all(store, [stage], ended.append)
        (branch,) = ended
        kept = {t.key: t.text for t in episode.turns if t.key < at}
        assert {t.key: t.text for t in branch.turns if t.key < at} == kept
        assert (branch.parent, branch.fork, branch.status) == (episode.ref, at, "done")
        assert await replay(staged(critic=forbidden, speaker=forbidden), branch) is None
    assert verify(store)[1] == []


async def test_forks_of_one_turn_are_drawn_anew(told, store):
    staged = await told()
    episode, journal = next(store.load("run"))
    first = journal[0].turn.key
    seeds = set()
    for run in ("a", "b"):
        ended = []
        await play_all(store, [fork(staged(), episode, journal, first, run)], ended.append)
        seeds.add(ended[0].turns[0].seed)
    assert len(seeds | {episode.turns[0].seed}) == 3


async def test_a_fork_of_a_fork_names_its_parent(told, store):
    staged = await told()
    episode, journal = next(store.load("run"))
    await play_all(
        store, [fork(staged(), episode, journal, journal[1].turn.key, "a")], lambda e: None
    )
    child, its = next(store.load("a"))
    await play_all(store, [fork(staged(), child, its, its[2].turn.key, "b")], lambda e: None)
    grandchild = next(store.episodes("b"))
    assert (grandchild.parent, child.parent) == (child.ref, episode.ref)
    assert grandchild.turns[0].text == episode.turns[0].text


async def test_a_killed_fork_goes_on_with_what_it_has(told, store, forbidden):
    staged = await told()
    episode, journal = next(store.load("run"))
    at = journal[1].turn.key
    whole = []
    await play_all(store, [fork(staged(), episode, journal, at, "a")], whole.append)
    known = store.journal("a", [whole[0].id])[whole[0].id]
    stage = fork(staged(critic=forbidden, speaker=forbidden), episode, journal, at, "a", known)
    assert (await stage.play()).transcript_hash == whole[0].transcript_hash


def test_a_fork_point_is_a_key_or_a_number(make):
    from superalign.store import Entry

    journal = [Entry(make.turn(f"000{n}:n:0000/judge:00"), "", True) for n in (1, 2)]
    assert fork_point(journal, "2") == fork_point(journal, "0002:n:0000/judge:00")
    for wrong in ("0", "3", "x", "-1"):
        with pytest.raises(BadInput, match="number up to 2"):
            fork_point(journal, wrong)


# Scores.


async def test_a_changed_score_is_applied_to_what_is_stored(setting, play, store):
    await play(setting(), 3)
    stage = setting()
    stage.protocol.rewards, before = lambda e: {"learner": 7}, stage.protocol.rewards
    try:
        scores = [rescore(stage, e, "rescore-1", "me", "") for e in store.episodes("run")]
    finally:
        stage.protocol.rewards = before
    assert [s.rewards for s in scores] == [{"learner": 7.0}] * 3


async def test_a_failed_episode_stays_unscored(setting, play, store):
    await play(setting(critic=["what?"]))
    (score,) = [rescore(setting(), e, "rescore-1", "me", "") for e in store.episodes("run")]
    assert (score.rewards, score.verdict) == ({}, None)
    assert "what?" in str(score.error)
