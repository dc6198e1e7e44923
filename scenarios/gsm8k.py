"""gsm8k: grade-school word problems (Cobbe et al. 2021, arXiv:2110.14168), with real solutions.

Reads `example_model_solutions.jsonl.gz`, one JSON object a line:
{"question": "Janet's ducks lay 16 eggs …", "ground_truth": "… A: 18",
 "6b_finetuning": {"is_correct": false, "solution": "… A: 11"}, "6b_verification": {…}, …}
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from superalign.store.errors import BadInput
from superalign.store.records import Question, Task

FILE = "example_model_solutions.jsonl.gz"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


class Gsm8k:
    """Word problems whose learner seat can play what four real solvers once wrote."""

    name = "gsm8k"
    cells: tuple[str, ...] = ()

    def __init__(self, path: Path | None = None) -> None:
        data = os.environ.get("SUPERALIGN_DATA")
        folder = path or (Path(data) / "gsm8k" if data else None)
        if folder is None or not (folder / FILE).is_file():
            where = folder or "$SUPERALIGN_DATA/gsm8k"
            raise BadInput(f"{where}: {FILE} is not there; set world.path or $SUPERALIGN_DATA")
        self._file = folder / FILE

    @cached_property
    def _items(self) -> list[dict[str, Any]]:
        with gzip.open(self._file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @cached_property
    def _truths(self) -> dict[str, str]:
        return {item["question"]: number(item["ground_truth"]) for item in self._items}

    def topic(self, cell: str) -> Task:
        raise NotImplementedError("gsm8k has no taxonomy; its tasks are its questions")

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """The first `n` questions; an attacker that plays the recording poses them."""
        if n > len(self._items):
            raise BadInput(f"episodes: {n} asked for, but gsm8k has {len(self._items)} recordings")
        for index in range(n):
            yield Task(question=Question(topic=f"gsm8k/{index}"))

    def heldout(self, n: int) -> list[Task]:
        raise BadInput("evaluate: gsm8k holds recordings only; leave `evaluate` out")

    def cell(self, question: Question) -> str | None:
        return "gsm8k" if question.text in self._truths else None

    def truth(self, question: Question) -> str:
        return self._truths[question.text]

    def correct(self, question: Question, answer: str) -> bool:
        """Exact match of the final number, commas removed."""
        return number(answer) == self.truth(question)

    def fault(self, question: Question, answer: str) -> int | None:
        """Only the result can be checked: the last line, when it is wrong."""
        return None if self.correct(question, answer) else len(answer.strip().splitlines())

    def recordings(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(topic, seat) -> replies: the question as posed, and the four solvers' solutions."""
        said = {}
        for index, item in enumerate(self._items):
            said[f"gsm8k/{index}", "attacker"] = (item["question"],)
            said[f"gsm8k/{index}", "learner"] = tuple(item[s]["solution"] for s in SOLVERS)
        return said


def number(solution: str) -> str:
    """What follows the last `A:` of a solution, commas removed; empty when there is none."""
    found = re.findall(r"A:([^\n]*)", solution)
    return found[-1].replace(",", "").strip() if found else ""
