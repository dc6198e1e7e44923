"""The command for people: label. One keystroke a case."""

from __future__ import annotations

import getpass
import sys
import time
from typing import Annotated, Any

import typer

from .console import PEOPLE, Json, RunArg, StoreUrl, app, show_facts, table

QUIT, UNDO, SKIP, COMMENT = "q", "u", "s", "c"
COMMANDS = {UNDO: "undo", SKIP: "skip", COMMENT: "comment", QUIT: "quit"}


@app.command(rich_help_panel=PEOPLE)
def label(
    run: RunArg,
    author: Annotated[str | None, typer.Option(help="Your name; default: your login.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say what waits.")] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Answer what waits for people: human seats, and answers to label."""
    from superalign.store.labels import LabelBook

    from .labelling import label_status
    from .stored import open_run

    with open_run(run, store) as (opened, name, _):
        book = LabelBook.beside(opened.url)
        if not status:
            Sitting(opened, book, name, author or _login()).go()
        facts = label_status(opened, book, name)
    show_facts(facts, as_json, _status)


def _login() -> str:
    from superalign.store import BadInput

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise BadInput("--author: this machine does not know your login; name yourself") from None


def _status(facts: dict[str, Any]) -> str:
    lines = [table(facts["people"])] if facts["people"] else []
    if (found := facts["label_agreement"]) is not None:
        alpha = (
            "unknown: all labels are alike" if found["alpha"] is None else f"{found['alpha']:.3f}"
        )
        lines.append(f"Krippendorff's alpha over {found['n']} doubly labelled answers: {alpha}")
    kinds = ", ".join(f"{n} {kind}" for kind, n in facts["kinds"].items())
    waits = f"waiting: {facts['waiting']} of {facts['cases']} cases" + (
        f" ({kinds})" if kinds else ""
    )
    done = "; go on with the same `superalign run` and --resume"
    return "\n".join([*lines, waits + (done if facts["cases"] and not facts["waiting"] else "")])


class Sitting:
    """One person at the queue of one run. Everything is shown on stderr."""

    def __init__(self, store: Any, book: Any, run: str, author: str) -> None:
        from rich.console import Console

        self.where = (store, book, run, author)
        self.screen = Console(stderr=True, highlight=False)

    def go(self) -> None:
        """Ask case after case until none is left, the person quits, or the input ends."""
        from .labelling import queue, undo

        while True:
            if wanted := queue(*self.where):
                self._show(wanted[0], len(wanted))
                if not self._ask(wanted[0]):
                    return
            else:
                self._say(f"nothing left for you.  {UNDO} undo, any other key ends", "dim")
                if _key() != UNDO or undo(*self.where) is None:
                    return

    def _show(self, sheet: Any, left: int) -> None:
        from .labelling import working_lines

        self.screen.rule(f"{left} left", style="dim")
        for part in sheet.parts:
            self._say(part.role, "bold")
            lines = part.content.splitlines()
            if sheet.case.kind in ("critique", "label") and part is sheet.judged:
                lines = [f"{i}  {line}" for i, line in enumerate(working_lines(part.content), 1)]
            self._say("\n".join(f"  {line}" for line in lines))
        self._say(f"\n{sheet.task}", "bold")
        if not sheet.keys:
            self._say(
                "  ".join(["a line of text"] + [f":{k} {v}" for k, v in COMMANDS.items()]), "dim"
            )
            return
        words = {key: said for key, said in sheet.keys.items() if key != said}
        digits = [key for key in sheet.keys if key not in words]
        numbers = [f"{digits[0]}-{digits[-1]}"] if digits else []
        hints = [*numbers, *(f"{key} {said}" for key, said in (words | COMMANDS).items())]
        self._say("  ".join(hints), "dim")

    def _ask(self, sheet: Any) -> bool:
        """Read words until one settles the case. False: the person has gone."""
        from superalign.store import BadInput

        from .labelling import answer, skip, undo

        note, shown = "", time.monotonic()
        while (word := _key() if sheet.keys else _line()) is not None:
            command = word if sheet.keys else word[1:] if word[:1] == ":" else ""
            try:
                if command == QUIT:
                    return False
                if command == SKIP:
                    skip(*self.where, sheet.place)
                    return True
                if command == UNDO:
                    if undo(*self.where) is not None:
                        return True
                    self._say("nothing to take back", "yellow")
                elif command == COMMENT:
                    self._say("comment:", "dim")
                    note = _line() or ""
                elif word not in sheet.keys and (sheet.keys or word[:1] == ":"):
                    self._say(f"no such key: {word!r}", "yellow")
                else:
                    value, seconds = sheet.keys.get(word, word), time.monotonic() - shown
                    answer(*self.where, sheet.place, value, note, seconds)
                    return True
            except BadInput as refused:
                self._say(str(refused), "yellow")
        return False

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        from .stored import printable

        self.screen.print(Text(printable(text), style=style))


def _key() -> str | None:
    """One keystroke on a terminal, one line elsewhere; None at the end of input."""
    if not sys.stdin.isatty():
        return _line()
    try:
        return typer.getchar()
    except EOFError:
        return None


def _line() -> str | None:
    """One line of input without its end; None when there is no more."""
    line = sys.stdin.readline()
    return line.strip() if line else None
