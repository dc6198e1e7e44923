"""One-line builders: a world in which anything goes, a scripted cast, a store, a run."""

from __future__ import annotations

import asyncio
import random
import runpy
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from superalign.agents import Agent, Sampling, Scripted
from superalign.protocols import load_protocol
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Limits, Plan, Setting
from superalign.scenarios import cli
from superalign.store import (
    Critique,
    Episode,
    Message,
    Question,
    Run,
    Store,
    Task,
    Turn,
    Verdict,
)
from superalign.store.store import chain, transcript_hash

HERE = Path(__file__).parent

# No test asserts on wall time. The same tree gives the same examples on every machine; new ones are
# looked for with `pytest --hypothesis-profile explore`.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")


class Anything:
    """A world in which every question is valid that does not say otherwise, and `4` is right."""

    name = "anything"
    cells = ("easy", "hard")

    def topic(self, cell: str) -> Task:
        return Task(question=Question(topic=cell), target="4")

    def tasks(self, n: int, seed: int) -> list[Task]:
        return [Task(question=Question(topic="easy", text=f"task {i}")) for i in range(n)]

    def heldout(self, n: int) -> list[Task]:
        return [Task(question=Question(topic="hard", text=f"held out {i}")) for i in range(n)]

    def cell(self, question: Question) -> str | None:
        return None if "invalid" in question.text else "easy"

    def truth(self, question: Question) -> str:
        return "4"

    def correct(self, question: Question, answer: str) -> bool:
        return answer.strip() == "4"

    def fault(self, question: Question, answer: str) -> int | None:
        return None if self.correct(question, answer) else 1


def agent(script: Any, **more: Any) -> Agent:
    return Agent(Scripted(script), "scripted", Sampling(), **more)


def critic(request: Any) -> str:
    return "ok" if request.view.ask.about[0].text == "4" else "1"


def jittered(reply: Callable[[Any], str], seed: int = 0) -> Callable[[Any], Any]:
    """The same replies, each after a pause of its own."""
    rng = random.Random(seed)

    async def later(request: Any) -> str:
        await asyncio.sleep(rng.random() * 0.004)
        return reply(request)

    return later


def chance(*texts: str) -> Callable[[Any], str]:
    """Replies drawn by the call's seed, as a real model's are."""
    return lambda request: random.Random(request.seed).choice(texts)


def plans(n: int, run: str = "run", **task: Any) -> list[Plan]:
    """`n` plans on one task."""
    task = {"question": Question(topic="easy"), **task}
    return [Plan(run=run, scenario="s", index=i, task=Task(**task), seed=i) for i in range(n)]


def turn(key: str = "0001:n:0000/judge:00", **more: Any) -> Turn:
    row: dict[str, Any] = {
        "key": key,
        "seat": key.split("/")[-1].split(":")[0],
        "kind": "answer",
        "text": "4",
        "policy": "scripted",
        "messages": (),
        "sampling": {},
        "seed": 0,
    }
    return Turn(**{**row, **more})


def episode(*turns: Turn, id: str = "e", **more: Any) -> Episode:
    row: dict[str, Any] = {
        "run": "run",
        "id": id,
        "index": 0,
        "protocol": "p",
        "protocol_hash": "h",
        "params": {},
        "task": Task(question=Question()),
        "seed": 0,
        "status": "done",
        "question": Question(),
        "turns": turns,
    }
    return Episode(**{**row, **more})


class Watched:
    """Scripts that note what every seat was asked; a seat without a reply says its name."""

    def __init__(self, **replies: Any) -> None:
        self.asked: dict[str, list[Any]] = {}
        self.replies = replies

    def script(self, seat: str) -> Callable[[Any], Any]:
        def reply(request: Any) -> Any:
            self.asked.setdefault(seat, []).append(request)
            given = self.replies.get(seat, f"{seat} says")
            return given(request) if callable(given) else given

        return reply

    def cast(self, *seats: str) -> dict[str, Any]:
        return {seat: self.script(seat) for seat in seats or self.replies}

    def of(self, seat: str, kind: str) -> list[Any]:
        return [r for r in self.asked.get(seat, []) if r.view.ask.kind == kind]

    @staticmethod
    def heard(request: Any) -> list[tuple[str, str]]:
        return [(turn.seat, turn.text) for turn in request.view.ask.about]


def put(store: Store, run: str = "run", id: str = "e1", text: str = "4", **more: Any) -> Episode:
    """Stores an ended episode of two turns: an answer, and a critique of it."""
    asked = Message(role="user", content=f"what is 2+2? {text}")
    seen = {"messages": (asked.hash,)}
    answer = turn("0001:answer:0000/learner:00", text=text, at=2.0, **seen)
    said = turn("0002:criticise:0000/critic:00", kind="critique", text="1", at=3.0, **seen)
    said = said.model_copy(update={"visible_to": ("critic",)})
    verdict = Verdict(value="failed", seat="critic", turn=said.key, confidence=0.5)
    critique = Critique(turn=said.key, about=answer.key, fault=1, confidence=0.75)
    told = {"verdict": verdict, "critiques": (critique,), "rewards": {"critic": 1, "learner": None}}
    hashed = transcript_hash((answer, said), verdict, None)
    ended = episode(answer, said, id=id, run=run, transcript_hash=hashed, **{**told, **more})
    store.put_message(asked, asked.hash)
    hashes = [store.put_turn(run, id, one) for one in ended.turns]
    store.put_episode(ended.model_copy(update={"chain": chain(vars(ended), hashes)}))
    store.flush()
    return ended


@pytest.fixture
def make() -> SimpleNamespace:
    """Builders that need no file."""
    return SimpleNamespace(
        Anything=Anything,
        agent=agent,
        chance=chance,
        critic=critic,
        episode=episode,
        jittered=jittered,
        message=lambda text="hi", role="user": Message(role=role, content=text),
        plans=plans,
        put=put,
        turn=turn,
        Watched=Watched,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture(scope="session")
def postgres():
    """`postgres()` -> the URL of an empty database on a server of this session's own."""
    tools = runpy.run_path(str(HERE / "postgres.py"))
    if tools["programs"]() is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    with tools["Server"]() as server:
        yield server.new_database


@pytest.fixture
def kind():
    """Where stores lie: `sqlite` or `postgresql`. Files of tests that run on both override it."""
    return "sqlite"


@pytest.fixture
def new_place(kind, tmp_path, request):
    """`new_place()` -> a path or URL at which there is no store yet."""
    if kind == "postgresql":
        return request.getfixturevalue("postgres")
    numbers = count(1)
    return lambda: tmp_path / f"store-{next(numbers)}.sqlite"


@pytest.fixture
def place(kind, path, new_place):
    """Where `store` lies."""
    return path if kind == "sqlite" else new_place()


@pytest.fixture
def store(place):
    with Store.open(place, write=True) as opened:
        opened.put_run(Run(id="run", scenario={}, origin="", protocol_hash="", version=""))
        yield opened


@pytest.fixture
def setting(store):
    """`setting(protocol=…, params=…, calls=…, seat=script…)`; by default a critique of sums."""

    def build(
        protocol: Any = None,
        params: dict[str, Any] | None = None,
        calls: int = 256,
        steps: int = 128,
        world: Any = None,
        to: Store | None = None,
        **scripts: Any,
    ) -> Setting:
        protocol = protocol or load_protocol("critique")
        if protocol.name == "critique":
            play = {"attacker": ["2+2"], "learner": chance("4", "5"), "critic": critic}
            scripts = {**play, **scripts}
        cast = {seat: s if isinstance(s, Agent) else agent(s) for seat, s in scripts.items()}
        limits = Limits(calls=calls, steps=steps)
        filled = protocol.params(params or {})
        return Setting(protocol, filled, cast, to or store, world or Anything(), limits)

    return build


@pytest.fixture
def play():
    """`await play(setting, n or plans)` -> episodes in plan order."""

    async def run(stage: Setting, what: int | list[Plan] = 1, concurrency: int = 64):
        ended: list[Episode] = []
        wanted = plans(what) if isinstance(what, int) else what
        await run_many(stage, wanted, ended.append, concurrency)
        return sorted(ended, key=lambda e: e.index)

    return run


@pytest.fixture
def taught(store):
    """`taught(episode, seat)` -> the rows that the episode's own protocol makes of it."""

    def prompt_of(turn: Turn) -> tuple[Message, ...]:
        found = store.messages(turn.messages)
        return tuple(found[key] for key in turn.messages)

    def rows(ended: Episode, seat: str) -> list[Any]:
        rule = load_protocol(ended.protocol).rule
        assert rule is not None
        return list(rule(ended, seat, prompt_of))

    return rows


@pytest.fixture
def forbidden():
    """A script for seats that must not be asked."""

    def refuse(request: Any) -> str:
        raise AssertionError(f"a model was called: {request.view.seat}")

    return refuse


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder with a policy of 40 thousand random weights and a tokenizer of characters."""
    build = runpy.run_path(str(HERE / "tiny.py"))["tiny_llama"]
    return build(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a scripted scenario in it, and files that others name."""
    for name in ("players.py", "players.yaml", "duet.py"):
        shutil.copy(HERE / name, tmp_path / name)
    (tmp_path / "broken.py").write_text("def p(:\n")
    (tmp_path / "good.py").write_text("")
    (tmp_path / "text.txt").write_text("no Python")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def superalign(monkeypatch, capsys):
    """`superalign(*words)` -> exit code, stdout, stderr; through the real entry point."""

    def run(*words: Any) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["superalign", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def one_thread():
    """On tensors this small a second thread only waits, for long on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
