"""passage: questions about a text that some seats read and the judge does not.

    story    342 questions about 97 stories, with the right and a wrong answer (Michael et al. 2023,
             arXiv:2311.08702; texts from QuALITY, CC BY 4.0)
    boolq    3,270 questions about passages of Wikipedia, yes or no (Clark et al. 2019,
             arXiv:1905.10044, CC BY-SA 3.0)

The readers have the text as their private note. `debate` with `quotes: true` checks what they
quote of it. Reads `nyu_debate/questions.jsonl.gz`, `nyu_debate/articles.jsonl.gz` and
`boolq/val.jsonl.gz`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from superalign.agents.quotes import readable
from superalign.store.records import Question, Task

from .written import Entry, Written, data_folder, read_lines, two_choices

NOTE = "The judge cannot read this text:\n\n"
"""What stands before the text in a reader's private note."""
FOLDERS = {"story": "nyu_debate", "boolq": "boolq"}


class Passage(Written):
    """The `World` of questions about hidden texts."""

    name = "passage"

    def __init__(
        self, path: Path | None, sources: tuple[str, ...], readers: tuple[str, ...]
    ) -> None:
        self.cells, self._readers = sources, readers
        self._folders = {source: data_folder(path, FOLDERS[source]) for source in sources}

    def entries(self) -> Iterator[Entry]:
        """The stories, whose answers come in an order that is kept; then the passages."""
        if folder := self._folders.get("story"):
            yield from self._stories(folder)
        if folder := self._folders.get("boolq"):
            yield from self._passages(folder)

    def _stories(self, folder: Path) -> Iterator[Entry]:
        articles = {a["article_key"]: a for a in read_lines(folder / "articles.jsonl.gz")}
        texts = {key: readable(article["tokens"]) for key, article in articles.items()}
        for asked in read_lines(folder / "questions.jsonl.gz"):
            key, choices = asked["article_key"], tuple(asked["answers"])
            question = Question(topic="story", text=asked["question"], choices=choices)
            target = choices[asked["correct_index"]]
            task = Task(question=question, target=target, private=self._notes(texts[key]))
            yield Entry(task, articles[key]["article_id"])  # some stories are there twice

    def _passages(self, folder: Path) -> Iterator[Entry]:
        for asked in read_lines(folder / "val.jsonl.gz"):
            text, passage = f"{asked['question'].strip()}?", asked["passage"]
            answers = ("Yes", "No") if asked["label"] == "true" else ("No", "Yes")
            yield Entry(two_choices("boolq", text, *answers, private=self._notes(passage)), passage)

    def _notes(self, text: str) -> dict[str, str]:
        return dict.fromkeys(self._readers, NOTE + text)
