"""choice: questions with one right and one wrong answer, and no text to read.

    arc-easy, arc-challenge    school science (Clark et al. 2018, arXiv:1803.05457, CC BY-SA 4.0)
    bbh                        tasks that were hard for models (Suzgun et al. 2022,
                               arXiv:2210.09261, MIT): those of multiple choice, a cell each. Train
                               on them no model whose score on BIG-bench is to be reported
    truthfulqa                 what many people get wrong (Lin et al. 2022, arXiv:2109.07958): the
                               best answer and the best wrong one, a cell for each category

The others have several wrong answers, of which a hash draws one. Reads `arc/arc_*.jsonl.gz`,
`bbh/items.jsonl.gz` and `truthfulqa/TruthfulQA.csv.gz`.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from superalign.store.errors import BadInput

from .written import Entry, Written, data_folder, read_lines, share, two_choices

FOLDERS = {"arc-easy": "arc", "arc-challenge": "arc", "bbh": "bbh", "truthfulqa": "truthfulqa"}
OPTION = re.compile(r"^(?:(\([A-Z]\))|-) (.+?) *$", re.MULTILINE)
OPTIONS = "\nOptions:\n"
UNLISTED = {
    "boolean_expressions": ("True", "False"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
"""Tasks of BBH that have two answers without listing them."""


class Choice(Written):
    """The `World` of two-choice questions."""

    name = "choice"

    def __init__(self, path: Path | None, sources: tuple[str, ...]) -> None:
        self._folders = {source: data_folder(path, FOLDERS[source]) for source in sources}

    @cached_property
    def cells(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sources; of BBH and TruthfulQA their tasks and categories."""
        return tuple(dict.fromkeys(e.task.question.topic for e in self._entries.values()))

    def entries(self) -> Iterator[Entry]:
        """All questions of all sources."""
        for source, folder in self._folders.items():
            if source == "bbh":
                yield from _bbh(folder)
            elif source == "truthfulqa":
                yield from _truthfulqa(folder)
            else:
                yield from _arc(folder, source)


def _entry(topic: str, text: str, right: str, wrong: list[str], about: str = "") -> Entry | None:
    """A question with one of its wrong answers; None when all answers read the same.

    `about` is all of the question, where its text is that of others too.
    """
    about = about or text
    others = [answer for answer in wrong if answer != right]
    if not others:
        return None
    drawn = others[int(share("wrong", about) * len(others))]
    return Entry(two_choices(topic, text, right, drawn), about)


def _arc(folder: Path, source: str) -> Iterator[Entry]:
    for part in ("dev", "test"):
        for asked in read_lines(folder / f"{source.replace('-', '_')}_{part}.jsonl.gz"):
            answers = {c["label"]: c["text"].strip() for c in asked["question"]["choices"]}
            right = answers.pop(asked["answerKey"])
            stem = asked["question"]["stem"].strip()
            if entry := _entry(source, stem, right, list(answers.values())):
                yield entry


def _bbh(folder: Path) -> Iterator[Entry]:
    """Every item whose target is one of its options."""
    for item in read_lines(folder / "items.jsonl.gz"):
        text, found, listed = item["input"].partition(OPTIONS)
        if found:
            options = {letter or words: words for letter, words in OPTION.findall(listed)}
        else:
            options = {words: words for words in UNLISTED.get(item["task"], ())}
        right = options.pop(item["target"].strip(), None)
        if right is None:
            continue
        topic, wrong = f"bbh {item['task']}", list(options.values())
        if entry := _entry(topic, text, right, wrong, item["input"]):
            yield entry


def _truthfulqa(folder: Path) -> Iterator[Entry]:
    path = folder / "TruthfulQA.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read: {error}; copy it again") from error
    for row in rows:
        topic = f"truthfulqa {row['Category']}"
        wrong = [row["Best Incorrect Answer"].strip()]
        if entry := _entry(topic, row["Question"].strip(), row["Best Answer"].strip(), wrong):
            yield entry
