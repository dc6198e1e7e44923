"""A store for the viewer's tests: every table that its pages read, with text of one's choice."""

from pathlib import Path
from typing import Any

from superalign.scenarios.labelling import label_case
from superalign.store import (
    Critique,
    Episode,
    Label,
    Message,
    Question,
    Run,
    Score,
    Store,
    Task,
    Turn,
    Verdict,
)

SEATS = ("attacker", "learner", "critic")
ATTACK, ANSWER, CRITIQUE = (
    "0001:attack:0000/attacker:00",
    "0002:answer:0000/learner:00",
    "0003:criticise:0000/critic:00",
)


def fill(folder: Path, n: int = 3, text: str = "2+2=4;4", run: str = "run", **more) -> Path:
    """A run folder with a store of `n` episodes, their text as given; the first has a branch, a
    later score, a label, a private text and a case."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "store.sqlite"
    scenario = {
        "name": text,
        "world": {"kind": "arithmetic"},
        "models": {"tiny": {"engine": "scripted"}},
        "protocol": {"name": "critique", "path": None},
        "cast": {seat: {"model": "tiny"} for seat in SEATS},
        "iterations": 1,
        "episodes": n,
        "seed": 0,
    }
    with Store.open(path, write=True) as store:
        common: dict[str, Any] = {
            "scenario": scenario,
            "origin": text,
            "protocol_hash": "",
            "version": text,
        }
        store.put_run(Run(id=run, **common))
        branch = Run(id=f"{run}-fork-1", parent=run, author=text, reason=text, **common)
        store.put_run(branch)
        for i in range(n):
            put(store, episode(run, f"{i:016x}", i, text, **more))
        parent = f"{run}/{0:016x}"
        put(store, episode(branch.id, "f" * 16, 0, text + "!", parent=parent, fork=ANSWER))
        first: dict[str, Any] = {"run": run, "episode": f"{0:016x}"}
        verdict = Verdict(value=text, seat="critic")
        store.put_scores([Score(**first, name="again", author=text, reason=text, verdict=verdict)])
        said: dict[str, Any] = {"source": "human", "author": text, "why": "audit", "note": text}
        store.put_labels([Label(**first, turn=ANSWER, correct=True, **said)])
        shown = next(store.episodes(run, ids=[f"{n - 1:016x}"]))
        case, messages = label_case(shown, shown.turn(ANSWER), "random")
        for message in messages:
            store.put_message(message, message.hash)
        store.put_cases([case])
    return folder


def episode(run: str, id: str, index: int, text: str, **more) -> Episode:
    given = Message(role="user", content=text)
    fields = {"policy": text, "messages": (given.hash,), "sampling": {"temperature": text}}
    spoken = [
        Turn(key=ATTACK, seat="attacker", kind="question", text=text, seed=0, **fields),
        Turn(key=ANSWER, seat="learner", kind="answer", text=f"{text} n{index}", seed=0, **fields,
             token_ids=(1, 2), logprobs=(-0.1, -3.0)),
        Turn(key=CRITIQUE, seat="critic", kind="critique", text=text, visible_to=("critic",),
             seed=0, error=text if index == 1 else None, **fields),
    ]  # fmt: skip
    row = {
        "run": run,
        "id": id,
        "index": index,
        "protocol": "critique",
        "protocol_hash": "",
        "params": {"samples": 2, "revisions": 1},
        "task": Task(question=Question(topic=text), private={"critic": text}),
        "seed": 0,
        "status": "done",
        "question": Question(text=f"{text} q{index}", topic=text, choices=(text, text)),
        "verdict": Verdict(value=text if index % 2 else "solved", seat="critic", confidence=0.5),
        "rewards": {"learner": 1.0, "critic": None},
        "truth": text,
        "facts": {"cell": text, "correct": {ANSWER: index % 2 == 0}, "fault": {ANSWER: 1}},
        "tags": (text,),
        "turns": tuple(spoken),
        "critiques": (Critique(turn=CRITIQUE, about=ANSWER, fault=1 + index % 3, confidence=0.7),),
    }
    return Episode(**{**row, **more})


def put(store: Store, episode: Episode) -> None:
    for turn in episode.turns:
        for key in turn.messages:
            content = str(turn.sampling["temperature"])
            store.put_message(Message(role="user", content=content), key)
        store.put_turn(episode.run, episode.id, turn)
    store.put_episode(episode)
    store.flush()
