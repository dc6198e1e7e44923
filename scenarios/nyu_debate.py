"""nyu-debate: 631 real debates and consultancies about stories that the judge could not read.

Michael et al. 2023, "Debate Helps Supervise Unreliable Experts" (arXiv:2311.08702); CC BY 4.0.
Reads `debates.jsonl.gz`, one room a line, and `articles.jsonl.gz`, one story a line, e.g.
{"name": "a-pail-of-air-0", "question": "What are the layers …", "answers": ["Water, nitrogen …",
 "Water, carbon dioxide …"], "correct_index": 1, "turns": [{"kind": "judge", "distribution":
 [0.29, 0.71], …}, {"kind": "speech", "debater": 0, "content": [{"text": …}, {"quote": [1319,
 1369]}]} …], …}; a quote is a span of the story's tokens.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from superalign.agents import Completion
from superalign.agents.quotes import mark_quotes, readable
from superalign.protocols.recorded import SIDES, decision, earned
from superalign.store.errors import BadInput
from superalign.store.records import Episode, Question, Score, Source, Task

DEBATES, ARTICLES = "debates.jsonl.gz", "articles.jsonl.gz"
STORY = "\n\nThe story, which the judge cannot read:\n"
"""What stands before the story in a debater's private note."""
LOST = "\N{REPLACEMENT CHARACTER}"
"""A quoted token behind the end of the story."""


class NyuDebate:
    """Questions about stories whose debaters, consultants and judges play what they once said."""

    name = "nyu-debate"
    cells: tuple[str, ...] = ()

    def __init__(self, path: Path | None = None) -> None:
        data = os.environ.get("SUPERALIGN_DATA")
        folder = path or (Path(data) / "nyu_debate" if data else None)
        for name in (DEBATES, ARTICLES):
            if folder is None or not (folder / name).is_file():
                where = folder or "$SUPERALIGN_DATA/nyu_debate"
                raise BadInput(f"{where}: {name} is not there; name its folder or $SUPERALIGN_DATA")
        assert folder is not None
        self.folder = folder

    @cached_property
    def _rooms(self) -> dict[str, dict[str, Any]]:
        """Topic -> room."""
        return {f"{self.name}/{room['name']}": room for room in _lines(self.folder / DEBATES)}

    @cached_property
    def _tokens(self) -> dict[str, list[str]]:
        """Article -> the tokens of its story."""
        return {a["article_key"]: a["tokens"] for a in _lines(self.folder / ARTICLES)}

    @cached_property
    def _stories(self) -> dict[str, str]:
        return {key: readable(tokens) for key, tokens in self._tokens.items()}

    def topic(self, cell: str) -> Task:
        raise NotImplementedError("nyu-debate has no taxonomy; its tasks are its rooms")

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """The first `n` rooms."""
        if n > len(self._rooms):
            raise BadInput(f"episodes: {n} asked for, but nyu-debate has {len(self._rooms)} rooms")
        for topic, room in list(self._rooms.items())[:n]:
            answers, right = tuple(room["answers"]), room["correct_index"]
            yield Task(
                question=Question(topic=topic, text=room["question"], choices=answers),
                target=answers[right],
                private={
                    seat: f"You argue for this answer: {answer}{STORY}{self._story(room)}"
                    for seat, answer in zip(SIDES, answers, strict=True)
                    if any(SIDES[t["debater"]] == seat for t in _speeches(room))
                },
            )

    def heldout(self, n: int) -> list[Task]:
        raise BadInput("evaluate: nyu-debate holds recordings only; leave `evaluate` out")

    def cell(self, question: Question) -> str | None:
        """Who debated and how, e.g. `human debate`; `, left out` where the paper leaves it out."""
        room = self._rooms.get(question.topic)
        if room is None:
            return None
        who = "human" if room["human_debaters"] else "GPT-4"
        how = "debate" if room["is_debate"] else "consultancy"
        return f"{who} {how}" + ("" if room["included_in_paper"] else ", left out")

    def truth(self, question: Question) -> str:
        room = self._rooms[question.topic]
        return room["answers"][room["correct_index"]]

    def correct(self, question: Question, answer: str) -> bool:
        """Whether it is the right answer, or its number from 0."""
        right = self._rooms[question.topic]["correct_index"]  # some answers end in white space
        return answer.strip() in (self.truth(question).strip(), str(right))

    def fault(self, question: Question, answer: str) -> int | None:
        return None if self.correct(question, answer) else 1

    def recordings(self) -> dict[tuple[str, str], list[Completion]]:
        """(topic, seat) -> what was said there, by whom, in order."""
        return self._said

    @cached_property
    def _said(self) -> dict[tuple[str, str], list[Completion]]:
        said: dict[tuple[str, str], list[Completion]] = {}
        for topic, room in self._rooms.items():
            lines = list(_lines_of(room))
            entries = [" ".join(f"{seat}:{KINDS[seat]}" for seat, _ in line) for line in lines]
            decided = "closed" if _final(room) else "open"
            order = Completion("\n".join([*entries, decided]), author="record", source="tool")
            said[topic, "clerk"] = [order]
            for seat, turn in (entry for line in lines for entry in line):
                said.setdefault((topic, seat), []).append(self._spoken(room, seat, turn))
        return said

    def scores(self, episodes: Iterable[Episode]) -> Iterator[Score]:
        """What people who read a room later made of it: the last belief of each."""
        for episode in episodes:
            room = self._rooms[episode.question.topic]
            sides = [seat for seat in SIDES if episode.by(seat)]
            for judge, judged in (room["offline_judgments"] or {}).items():
                last = judged["judgments"][-1]
                held = [round(p, 2) for p in last["distribution"]]
                score = Score(
                    run=episode.run,
                    episode=episode.id,
                    name=f"offline {judge}",
                    author=judge,
                    reason=judged["mode"],
                    error=None if last["end_debate"] else "the judge did not come to an end",
                )
                if last["end_debate"]:
                    rewards = earned(held, room["correct_index"], sides)
                    update = {"verdict": decision(held), "rewards": rewards}
                    score = score.model_copy(update=update)
                yield score

    def _story(self, room: dict[str, Any]) -> str:
        return self._stories[room["article_key"]]

    def _spoken(self, room: dict[str, Any], seat: str, turn: dict[str, Any]) -> Completion:
        """What was said in one turn through one seat, its quotes checked against the story."""
        text = " ".join(f"{p:.2f}" for p in turn["distribution"]) if seat == "judge" else ""
        if seat != "judge":
            parts = (self._part(room, part) for part in turn["content"])
            text = mark_quotes("".join(parts), self._story(room))
        source: Source = "ai" if turn["speaker"] == "GPT-4" else "human"
        return Completion(text, author=turn["speaker"], source=source)

    def _part(self, room: dict[str, Any], part: dict[str, Any]) -> str:
        if "text" in part:
            return part["text"]
        (begin, end), tokens = part["quote"], self._tokens[room["article_key"]]
        lost = [LOST] * max(0, end - len(tokens))
        return f"<quote>{readable([*tokens[begin:end], *lost])}</quote>"


KINDS = {**dict.fromkeys(SIDES, "speech"), "questioner": "feedback", "judge": "belief"}
"""Seat -> what it is asked for."""


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {error}; copy it again") from error


def _speeches(room: dict[str, Any]) -> list[dict[str, Any]]:
    return [turn for turn in room["turns"] if turn["kind"] == "speech"]


def _lines_of(room: dict[str, Any]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Who spoke in a room, line by line: on one line those who did not hear each other.

    A judge's turn is a belief and, where something was written to the others, feedback.
    """
    told = [turn for turn in room["turns"] if turn["kind"] in ("speech", "judge")]
    for (_, at_once), group in groupby(told, lambda t: (t["round"], t.get("simultaneous", False))):
        turns = list(group)
        lines = [turns] if at_once else [[turn] for turn in turns]
        for line in lines:
            if line[0]["kind"] == "speech":
                yield [(SIDES[turn["debater"]], turn) for turn in line]
            else:
                yield [("judge", line[0])]
                if line[0]["content"]:
                    yield [("questioner", line[0])]


def _final(room: dict[str, Any]) -> bool:
    """Whether the judge in the room decided; its last belief is then its decision."""
    return bool(((room["result"] or {}).get("judgingInfo") or {}).get("finalJudgement"))
