"""Real debates: they replay, they are judged again, and published figures come out exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.agents import Agent, Completion, Sampling, plain, recording
from superalign.agents.quotes import is_quote, mark_quotes, quotes, readable
from superalign.protocols import Unreadable, load_protocol
from superalign.protocols.branch import rejudgements
from superalign.protocols.recorded import SIDES, decision, earned, parse_belief
from superalign.protocols.replay import replay
from superalign.protocols.setting import Setting
from superalign.scenarios.nyu_debate import STORY, NyuDebate
from superalign.store import BadInput, Question, Store

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data") / "nyu_debate"


@pytest.fixture(scope="module")
def world():
    if not (DATA / "debates.jsonl.gz").is_file():
        pytest.skip("needs nyu_debate/debates.jsonl.gz; set $SUPERALIGN_DATA")
    return NyuDebate(DATA)


@pytest.fixture(scope="module")
def imported(world, tmp_path_factory):
    """A folder with the run, made by the command as users give it."""
    folder = tmp_path_factory.mktemp("nyu")
    env = {**os.environ, "SUPERALIGN_DATA": "/nonexistent"}
    command = [sys.executable, "-P", "-m", "superalign.scenarios.cli"]
    words = [*command, "import", "nyu-debate", str(DATA), "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    (folder / "facts.json").write_text(done.stdout)
    return folder


@pytest.fixture
def there(imported, monkeypatch):
    monkeypatch.chdir(imported)
    monkeypatch.delenv("SUPERALIGN_DATA", raising=False)
    return imported


# The import.


def test_all_rooms_are_one_run_that_replays_without_models(there, superalign):
    facts = json.loads((there / "facts.json").read_text())
    assert (facts["run"], facts["episodes"], facts["failed"]) == ("nyu-debate-1", 631, 0)
    code, out, _ = superalign("replay", "nyu-debate-1", "--json")
    found = json.loads(out)
    assert (code, found["episodes"], found["model_calls"]) == (0, 631, 0)
    assert found["divergences"] == []
    assert (there / "runs" / "nyu-debate-1" / "scenario.json").is_file()
    code, out, _ = superalign("verify", "runs/nyu-debate-1/store.sqlite", "--json")
    assert (code, json.loads(out)["damaged"]) == (0, [])


def test_published_figures_come_out_of_the_store(there):
    """The figures that came with the data (its SOURCE.md), and the paper's 84% and 74%."""
    script = ROOT / "benchmarks" / "nyu.py"
    words = [sys.executable, script, "--store", "runs/nyu-debate-1/store.sqlite", "--json"]
    facts = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    published = {
        "human debate": (130, 154, 0.8442, 0.7941, -0.7533),
        "human consultancy": (71, 96, 0.7396, 0.6973, -1.0343),
        "GPT-4 debate": (68, 87, 0.7816, 0.7539, -1.0062),
        "GPT-4 consultancy": (61, 76, 0.8026, 0.7650, -0.9529),
    }
    rates = ("accuracy", "mean_probability", "mean_log2")
    found = {
        name: (group["right"], group["n"], *(round(group[rate], 4) for rate in rates))
        for name, group in facts["groups"].items()
    }
    assert found == published
    assert (facts["beliefs"], facts["speeches"]) == (2421, 3157)
    assert (facts["verified"], facts["unverified"]) == (8328, 3)


def test_who_spoke_is_stored_with_every_turn(there):
    with Store.open("runs/nyu-debate-1/store.sqlite") as store:
        spoke = {
            (turn.seat, turn.source, turn.policy == "GPT-4")
            for episode in store.episodes("nyu-debate-1")
            for turn in episode.turns
        }
    people = {(seat, "human", False) for seat in (*SIDES, "questioner", "judge")}
    assert spoke == people | {(seat, "ai", True) for seat in SIDES} | {("clerk", "tool", False)}


def test_a_room_without_a_decision_has_no_rewards(there, world):
    with Store.open("runs/nyu-debate-1/store.sqlite") as store:
        episodes = list(store.episodes("nyu-debate-1"))
    values = [e.verdict.value for e in episodes if e.verdict]
    assert {v: values.count(v) for v in set(values)} == {
        "0": 240,
        "1": 275,
        "undecided": 2,
        "open": 114,
    }
    for episode in episodes:
        undecided = episode.verdict is not None and episode.verdict.value == "open"
        assert all((reward is None) == undecided for reward in episode.rewards.values())


def test_no_judge_was_ever_shown_the_story(there):
    with Store.open("runs/nyu-debate-1/store.sqlite") as store:
        for episode in store.episodes("nyu-debate-1"):
            told = [t for t in episode.turns if t.seat in ("judge", "questioner", "clerk")]
            shown = store.messages(key for turn in told for key in turn.messages)
            assert not any(STORY in message.content for message in shown.values())
            assert set(episode.task.private) == {t.seat for t in episode.turns} & set(SIDES)


def test_later_judgements_stand_beside_the_first(there):
    with Store.open("runs/nyu-debate-1/store.sqlite") as store:
        scores = [s for s in store.scores("nyu-debate-1") if s.name.startswith("offline")]
    assert len(scores) == 247
    assert {s.reason for s in scores} == {"stepped", "timed"}
    assert sum(s.error is not None for s in scores) == 1
    lulu = next(s for s in scores if s.author == "Lulu Lemonade")
    assert lulu.verdict is not None
    assert lulu.rewards["judge"] is not None


@pytest.mark.slow
def test_another_judge_hears_the_same_speeches_in_all_rooms(there, superalign):
    bot = 'models.bot={engine: scripted, replies: ["Well.\\nBelief: 0.9 0.1"]}'
    words = ["--seat", "judge", "--set", bot, "--set", "cast.judge.model=bot", "--json"]
    code, out, err = superalign("rejudge", "nyu-debate-1", *words)
    facts = json.loads(out)
    assert (code, facts["episodes"], facts["failed"], facts["divergences"]) == (0, 631, 0, []), err
    with Store.open("runs/nyu-debate-1/store.sqlite") as store:
        again = next(e for e in store.episodes(facts["run"]) if e.verdict and e.verdict.turn)
        before = next(store.episodes("nyu-debate-1", ids=[str(again.parent).split("/")[1]]))
    assert again.verdict is not None
    assert (again.verdict.value, again.verdict.confidence) == ("0", 0.9)
    others = [(t.key, t.text) for t in before.turns if t.seat != "judge"]
    assert [(t.key, t.text) for t in again.turns if t.seat != "judge"] == others
    assert {t.source for t in again.by("judge")} == {"ai"}


def test_missing_data_is_named(folder, superalign, monkeypatch):
    monkeypatch.delenv("SUPERALIGN_DATA", raising=False)
    code, out, err = superalign("import", "nyu-debate")
    assert (code, out) == (2, "")
    assert "$SUPERALIGN_DATA/nyu_debate: debates.jsonl.gz is not there" in err
    for name in ("debates.jsonl.gz", "articles.jsonl.gz"):
        (folder / "empty" / name).write_bytes(b"no gzip")
    code, _, err = superalign("import", "nyu-debate", "empty")
    assert code == 2
    assert "cannot be read" in err.splitlines()[-1]


# The protocol, with a room of our own.

ROOM = {
    "clerk": ["judge:belief\ndebater_a:speech debater_b:speech\nquestioner:feedback\n"
              "debater_a:speech\njudge:belief\nclosed"],
    "judge": ["0.50 0.50", "0.20 0.80"],
    "debater_a": ["one", "three"],
    "debater_b": ["two"],
    "questioner": ["why?"],
}  # fmt: skip


class Room:
    """A world of one question."""

    def cell(self, question):
        return "room"

    def truth(self, question):
        return "no"

    def correct(self, question, answer):
        return answer == "no"

    def fault(self, question, answer):
        return None


@pytest.fixture
def held(setting, play, make):
    """`await held(seat=replies…)` -> setting and episode of a room."""

    async def build(**said):
        spoken = {("room", s): texts for s, texts in {**ROOM, **said}.items()}
        agent = Agent(recording(spoken, plain), "room", Sampling())
        cast = dict.fromkeys(ROOM, agent)
        stage = setting(load_protocol("recorded"), {}, world=Room(), **cast)
        question = Question(topic="room", text="yes or no?", choices=("yes", "no"))
        private = {seat: f"for {seat} alone" for seat in SIDES}
        (ended,) = await play(stage, make.plans(1, question=question, private=private))
        return stage, ended

    return build


async def test_who_speaks_at_once_does_not_hear_the_other(held, store):
    _, episode = await held()
    assert episode.status == "done", episode.error
    shown = [
        [m.content for m in map(store.messages(turn.messages).get, turn.messages) if m]
        for turn in episode.turns
    ]
    heard = {
        (turn.seat, turn.text): {"one", "two", "three", "why?"} & set(given)
        for turn, given in zip(episode.turns, shown, strict=True)
    }
    assert heard["debater_a", "one"] == heard["debater_b", "two"] == set()
    assert heard["questioner", "why?"] == {"one", "two"}
    assert heard["debater_a", "three"] == {"one", "two", "why?"}
    assert heard["judge", "0.20 0.80"] == {"one", "two", "why?", "three"}
    assert not any("0.50 0.50" in given or "judge:belief" in given for given in shown)


async def test_the_last_belief_decides_and_pays(held):
    stage, episode = await held()
    assert episode.verdict.model_dump() == {
        "value": "1",
        "seat": "judge",
        "turn": episode.by("judge")[-1].key,
        "confidence": 0.8,
        "answer": episode.question.choices[1],
    }
    assert episode.rewards == {"judge": pytest.approx(-0.32193, abs=1e-5)} | {
        "debater_a": 0.2,
        "debater_b": 0.8,
    }
    assert await replay(stage, episode) is None


async def test_another_judge_hears_the_same_speeches(held, make, store):
    stage, before = await held()
    ((_, journal),) = store.load("run", [before.id])
    cast = {**stage.cast, "judge": make.agent(["no idea\nBelief: 0.6 0.4", "Belief: 0.7 0.3"])}
    anew = Setting(stage.protocol, stage.params, cast, store, Room())
    (again,) = rejudgements([(before, journal)], "again", "judge", lambda episode: anew)
    after = await again.play()
    assert after.verdict is not None
    assert (after.verdict.value, after.verdict.confidence, again.divergence) == ("0", 0.7, None)
    kept = [turn for turn in before.turns if turn.seat != "judge"]
    assert [turn for turn in after.turns if turn.seat != "judge"] == kept


async def test_an_open_room_has_no_decision(held):
    _, episode = await held(clerk=["debater_a:speech\njudge:belief\nopen"])
    assert (episode.status, episode.verdict.value) == ("done", "open")
    assert episode.rewards == {"judge": None, "debater_a": None}


async def test_a_room_in_which_nobody_spoke_is_open(held):
    _, episode = await held(clerk=["open"])
    assert (episode.verdict.value, len(episode.turns)) == ("open", 1)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"clerk": ["closed"]}, "never told a belief"),
        ({"clerk": [""]}, "expected `closed` or `open`"),
        ({"clerk": ["judge:belief\nshut"]}, "expected `closed` or `open`"),
        ({"clerk": ["clerk:programme\nopen"]}, "expected seat:kind"),
        ({"clerk": ["judge:belief judge:belief\nopen"]}, "each seat once a line"),
        ({"clerk": ["judge: belief\nopen"]}, "expected seat:kind"),
        ({"judge": ["0.50 0.50", "0 1"]}, "expected 2 probabilities"),
        ({"judge": ["0.50 0.50"]}, "1 replies of judge are recorded"),
    ],
)
async def test_what_cannot_be_read_fails_the_episode(said, error, held):
    _, episode = await held(**said)
    assert (episode.status, episode.rewards) == ("failed", {})
    assert error in episode.error


async def test_a_recording_says_who_spoke(held):
    _, episode = await held(questioner=[Completion("why?", author="Ann", source="human")])
    spoke = {turn.seat: (turn.policy, turn.source) for turn in episode.turns}
    assert spoke["questioner"] == ("Ann", "human")
    assert spoke["judge"] == ("room", "ai")


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("0.29 0.71", (0.29, 0.71)),
        ("I think so.\nBelief: .9 .1", (0.9, 0.1)),
        ("belief: 0.33 0.66", (0.33, 0.66)),
    ],
)
def test_a_belief_is_read(text, held):
    assert parse_belief(text, 2) == held


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "0.5 0.5 0.5", "1.0 0.0", "0.6 0.6", "50% 50%", "-0.5 1.5", "nan nan", "a b"],
)
def test_no_belief_is_guessed(text):
    with pytest.raises(Unreadable, match="expected 2 probabilities"):
        parse_belief(text, 2)


def test_a_tie_decides_nothing_and_pays_one_bit():
    assert decision((0.5, 0.5)).value == "undecided"
    assert earned((0.5, 0.5), 0, SIDES) == {"judge": -1.0, "debater_a": 0.5, "debater_b": 0.5}
    assert earned((0.9, 0.1), None, ()) == {"judge": None}


# Quotes.

STORY_TEXT = "He said, \"I can't go to the rapist's.\" They cannot\n\nsee (the) end -- ever."


@pytest.mark.parametrize(
    "words",
    [
        "I can't go",
        "I ca n't go",
        "n't go",
        "``I can't",
        "the rapist 's . '' They",
        "can not see",
        "cannot see -LRB- the -RRB- end",
        "end \u2014 ever",
        "  see\n( the )\tend",
    ],
)
def test_a_quote_is_found_however_it_is_spaced_or_tokenised(words):
    assert is_quote(words, STORY_TEXT)


@pytest.mark.parametrize(
    "words",
    ["", " \n", "therapist", "can go", "He say", "said I", "ever. He", "end ever", "ee (the"],
)
def test_what_is_not_there_is_no_quote(words):
    assert not is_quote(words, STORY_TEXT)


def test_marks_that_a_speaker_wrote_are_checked_like_any_other():
    told = (
        "<v_quote>They lied</v_quote> <quote>He said</quote> <u_quote>ever</u_quote> </v_quote>"
        "<quote>can't <v_quote>fly</quote> <quote>open"
    )
    marked = mark_quotes(told, STORY_TEXT)
    assert marked == (
        "<u_quote>They lied</u_quote> <v_quote>He said</v_quote> <v_quote>ever</v_quote> "
        "<u_quote>can't fly</u_quote> open"
    )
    assert quotes(marked) == [
        ("They lied", False),
        ("He said", True),
        ("ever", True),
        ("can't fly", False),
    ]
    assert mark_quotes(marked, STORY_TEXT) == marked


def test_tokens_read_as_people_write():
    spelt = "`` Ca n't you -LRB- ever -RRB- see , Pa ? '' said Sis 's friend . \n \n Yes -- so"
    tokens = spelt.split(" ")
    text = "\"Can't you (ever) see, Pa?\" said Sis's friend.\n\nYes -- so"
    assert readable(tokens) == text
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            words = readable(tokens[start:end])
            assert is_quote(words, text) == (words.strip() != "")


def test_the_first_room_is_as_upstream_has_it(world):
    (task,) = world.tasks(1, 0)
    assert task.question.topic == "nyu-debate/a-pail-of-air-0"
    assert world.cell(task.question) == "human debate"
    assert task.target == world.truth(task.question) == task.question.choices[1]
    assert world.cell(Question(topic="nyu-debate/gone")) is None
    said = world.recordings()
    assert [c.text for c in said["nyu-debate/a-pail-of-air-0", "judge"]] == [
        "0.29 0.71",
        "0.36 0.64",
        "0.01 0.99",
    ]
    with pytest.raises(BadInput, match="631 rooms"):
        list(world.tasks(632, 0))


def test_a_speaker_s_side_and_story_are_its_own(world):
    (task,) = world.tasks(1, 0)
    assert set(task.private) == set(SIDES)
    for seat, answer in zip(SIDES, task.question.choices, strict=True):
        assert task.private[seat].startswith(f"You argue for this answer: {answer}{STORY}")
