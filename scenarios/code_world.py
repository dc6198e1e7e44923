"""code: programs to write, which are right when their tests pass. Run in a sandbox alone.

    humaneval    164 functions to complete (Chen et al. 2021, arXiv:2107.03374, MIT)
    mbpp         969 short functions to write (Austin et al. 2021, arXiv:2108.07732, CC BY 4.0); the
                 question shows the first of its tests, which names the function, and no other

An answer is Python: the last block between ``` fences, or all of it when there is none. It defines
the function asked for or, for HumanEval, goes on where the question ends. `code_checker.py` tells
how it is tested without ever meeting its tests. Needs bubblewrap; see sandbox.py. Reads
`humaneval/HumanEval.jsonl.gz` and `mbpp/mbpp.jsonl.gz`.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from superalign.store.records import Question, Task

from .sandbox import sandbox
from .written import Entry, Written, data_folder, read_lines

FENCE = "```"
LEFT_OUT = {367, 533, 601, 927}
"""Tasks of MBPP whose tests give the program a class, or objects of one: no plain data."""
CHECKER = Path(__file__).with_name("code_checker.py")


class Exam(NamedTuple):
    """How the programs for one question are tested."""

    entries: tuple[str, ...]
    """The functions that the program must define, and the tests call."""
    start: str
    """What an answer that defines none of them goes on from."""
    helpers: str
    """What stands before the function in the question."""
    native: str
    """What the tests use besides."""
    tests: str


class Code(Written):
    """The `World` of programs."""

    name = "code"

    def __init__(self, path: Path | None, sources: tuple[str, ...]) -> None:
        self.cells = sources
        self._folders = {source: data_folder(path, source) for source in sources}
        self._passes = lru_cache(maxsize=65_536)(self._run)

    def entries(self) -> Iterator[Entry]:
        """All questions; the target is the solution that came with it."""
        for task, _ in self._read.values():
            yield Entry(task, task.question.text)

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """As `Written`; refused at once where there is no sandbox to test the answers in."""
        sandbox()
        return super().tasks(n, seed)

    def heldout(self, n: int) -> list[Task]:
        sandbox()
        return super().heldout(n)

    def correct(self, question: Question, answer: str) -> bool:
        """Whether the program passes the tests. What was run once is not run again."""
        return self._passes(question.text, answer)

    def _run(self, text: str, answer: str) -> bool:
        exam = self._read[text][1]
        source = program(exam, answer).encode("utf-8", "replace")
        given = {"entries": exam.entries, "native": exam.native, "tests": exam.tests}
        told = f"{len(source):08}".encode() + source + json.dumps(given).encode()
        return sandbox().run(CHECKER.read_text(), told).status == 0

    @cached_property
    def _read(self) -> dict[str, tuple[Task, Exam]]:
        """Question -> its task and exam."""
        found = {}
        for source, folder in self._folders.items():
            file, read = READERS[source]
            for item in read_lines(folder / file):
                if item["task_id"] in LEFT_OUT:
                    continue
                text, solution, exam = read(item)
                question = Question(topic=source, text=text)
                found.setdefault(text, (Task(question=question, target=solution), exam))
        return found


def program(exam: Exam, answer: str) -> str:
    """The program that an answer makes."""
    code = unfenced(answer)
    if exam.start and not _defined(code) & set(exam.entries):
        return exam.start + code
    return f"{exam.helpers}\n{code}"


def unfenced(answer: str) -> str:
    """The last block between fences, which a cut answer may not have closed; else all of it."""
    blocks, inside = [], False
    for line in answer.split("\n"):
        if line.startswith(FENCE):
            inside = not inside
            blocks += [[]] if inside else []
        elif inside:
            blocks[-1].append(line)
    return "\n".join(blocks[-1]) if blocks else answer


def _defined(code: str) -> set[str]:
    """The names that a program defines; none when it is no program."""
    try:
        body = _parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return names | {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _parsed(code: str) -> list[ast.stmt]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a program's own escapes look like is its affair
        return ast.parse(code).body


def _humaneval(item: dict[str, Any]) -> tuple[str, str, Exam]:
    """Question, solution and exam of a line of HumanEval. Its tests may use its helpers."""
    prompt, entry = item["prompt"], item["entry_point"]
    solution = prompt + item["canonical_solution"]
    before = [node for node in _parsed(solution) if getattr(node, "name", "") != entry]
    helpers = "\n".join(map(ast.unparse, before))
    tests = f"{item['test']}\ncheck({entry})\n"
    return prompt, solution, Exam((entry,), prompt, helpers, helpers, tests)


def _mbpp(item: dict[str, Any]) -> tuple[str, str, Exam]:
    """Question, solution and exam of a line of MBPP. Its tests may use what its solution imports,
    and its classes."""
    solution, tests = item["code"], item["test_list"]
    text = f"{item['text']}\n\nFor example:\n\n{tests[0]}"
    body = _parsed(solution)
    called = {n.id for n in ast.walk(ast.parse("\n".join(tests))) if isinstance(n, ast.Name)}
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    entries = tuple(name for name in dict.fromkeys(functions) if name in called)
    used = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom | ast.ClassDef)]
    native = "\n".join(map(ast.unparse, used))
    return (
        text,
        solution,
        Exam(entries, "", "", native, "\n".join([item["test_setup_code"], *tests])),
    )


READERS = {
    "humaneval": ("HumanEval.jsonl.gz", _humaneval),
    "mbpp": ("mbpp.jsonl.gz", _mbpp),
}
