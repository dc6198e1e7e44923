"""The viewer: a local web application over stores. `superalign view` serves it.

Pages are made on the server and work without scripts; htmx polls a live run, filters and pages.
Every error is a page with its status: what a store holds is hostile, and may be damaged.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Form, Query, Request
from fastapi import Path as Part
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException

from superalign.store import BadInput, SuperalignError
from superalign.store.labels import LabelBook

from . import labelling
from .search import FACETS
from .viewer_episode import diff_facts, episode_facts, seats_of, seen_by
from .viewer_guard import Guard
from .viewer_library import Library, Shelf

HERE = Path(__file__).parent
PAGE = 50
"""Episodes a page."""

MOST_VALUES = 50
"""Values that a filter offers; one may search for the others."""

REPORTED = 5000
"""Episodes of a run up to which its report is made while one waits."""

DRAWING = threading.Lock()
"""matplotlib draws one figure at a time."""

Name = Annotated[str, Part(min_length=1, max_length=200)]
Words = Annotated[str, Query(max_length=400)]
Ref = Annotated[str, Query(min_length=3, max_length=400)]
Value = Annotated[str, Query(max_length=200)]
Author = Annotated[str, Query(max_length=64)]


def create_app(
    stores: Iterable[Path] = (), host: str = "127.0.0.1", token: str | None = None
) -> FastAPI:
    """The application over some stores, or over those of all runs. Single use."""
    library = Library(stores)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        thread = threading.Thread(target=_keep_up, args=[library], daemon=True)
        thread.start()
        yield
        library.closed.set()
        thread.join(10)
        library.close()

    app = FastAPI(title="superalign viewer", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.library = library
    app.add_middleware(Guard, host=host, token=token)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for failure, handler in ERRORS.items():
        app.add_exception_handler(failure, handler)
    _reading(app, library)
    _labelling(app, library)
    return app


def _keep_up(library: Library) -> None:
    import langgraph.graph  # noqa: F401  # slow to load: not while somebody waits for a page

    library.keep_up()


# Errors are pages.


def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")
    if isinstance(error, BadInput):
        return _error(404 if request.method == "GET" else 409, str(error))
    what = "this cannot be read; `superalign verify` names what is damaged"
    return _error(422, f"{what}: {type(error).__name__}: {error}"[:500])


def _error(status: int, message: str) -> Response:
    page = render("error.html", status=status, message=message)
    page.status_code = status
    return page


ERRORS: dict[Any, Any] = dict.fromkeys(
    (
        HTTPException,
        RequestValidationError,
        SuperalignError,
        DatabaseError,
        sqlite3.Error,
        LookupError,  # the rest: a damaged store holds neither JSON nor records
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ),
    _failed,
)


# Templates.


def url(*parts: Any, **query: Any) -> str:
    """An address; every part is quoted."""
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def split_ref(ref: str) -> tuple[str, str]:
    run, _, id = ref.rpartition("/")
    return run, id


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"url": url, "split_ref": split_ref}
TEMPLATES.filters |= {
    "percent": lambda value: f"{100 * value:.0f}%",
    "count": lambda value: f"{value:,}",
    "seconds": lambda value: f"{value:.2f} s" if value < 60 else f"{value / 60:.1f} min",
    "when": lambda at: time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(0, min(at, 4e9)))),
}


def render(template: str, **facts: Any) -> HTMLResponse:
    return HTMLResponse(TEMPLATES.get_template(template).render(**facts))


# What is read.


def _reading(app: FastAPI, library: Library) -> None:
    @app.get("/", response_class=HTMLResponse)
    def runs() -> Response:
        return render("runs.html", shelves=[_shelf_line(shelf) for shelf in library.shelves()])

    @app.get("/runs/{store}/{run}", response_class=HTMLResponse)
    def episodes(
        store: Name,
        run: Name,
        q: Words = "",
        iteration: Value = "",
        status: Value = "",
        verdict: Value = "",
        cell: Value = "",
        seat: Value = "",
        protocol: Value = "",
        tag: Value = "",
        before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    ) -> Response:
        shelf = library.shelf(store)
        values = (iteration, status, verdict, cell, seat, protocol, tag)
        chosen = {name: value for name, value in zip(FACETS, values, strict=True) if value}
        return render("episodes.html", **_episodes(shelf, run, q, chosen, before))

    @app.get("/runs/{store}/{run}/report", response_class=HTMLResponse)
    def report(store: Name, run: Name) -> Response:
        return _report(library.shelf(store), run)

    @app.get("/runs/{store}/{run}/lineage", response_class=HTMLResponse)
    def lineage(store: Name, run: Name, ref: Ref) -> Response:
        return _lineage(library.shelf(store), run, ref)

    @app.get("/runs/{store}/{run}/episodes/{id}", response_class=HTMLResponse)
    def episode(
        store: Name, run: Name, id: Name, as_seat: Annotated[Value, Query(alias="as")] = ""
    ) -> Response:
        return _episode(library.shelf(store), run, id, as_seat)

    @app.get("/diff/{store}", response_class=HTMLResponse)
    def diff(store: Name, a: Ref, b: Ref) -> Response:
        shelf = library.shelf(store)
        (left, _), (right, _) = (shelf.episode(*split_ref(ref)) for ref in (a, b))
        seats = seats_of(left, shelf.store.run(left.run))
        return render("diff.html", shelf=shelf, seats=seats, **diff_facts(left, right))


def _shelf_line(shelf: Shelf) -> dict[str, Any]:
    runs = []
    for run in reversed(shelf.store.runs()):
        protocol = run.scenario.get("protocol")
        done = {s: shelf.index.count(run.id, status=s) for s in ("done", "failed")}
        name = protocol.get("name") if isinstance(protocol, dict) else None
        runs.append({"run": run, "protocol": name, "episodes": shelf.index.count(run.id), **done})
    return {"shelf": shelf, "runs": runs, "newer": shelf.index.newer()}


def _episodes(
    shelf: Shelf, run: str, q: str, chosen: dict[str, str], before: int | None
) -> dict[str, Any]:
    stored = shelf.store.run(run)
    rowids, total = shelf.index.find(run, chosen, q, before, PAGE + 1)
    facets = shelf.index.facets(run)
    return {
        "shelf": shelf,
        "run": stored,
        "q": q,
        "chosen": chosen,
        "facets": {name: facets[name][:MOST_VALUES] for name in FACETS if facets.get(name)},
        "lines": shelf.lines(rowids[:PAGE]),
        "total": total,
        "next": rowids[PAGE - 1] if len(rowids) > PAGE else None,
        "before": before,
        "open": shelf.open_ones(run) if not (chosen or q or before) else [],
        "newer": shelf.index.newer(),
        "cases": bool(shelf.store.cases(run)),
    }


def _episode(shelf: Shelf, run: str, id: str, as_seat: str) -> Response:
    episode, journal = shelf.episode(run, id)
    stored, folder = shelf.store.run(run), shelf.path.parent
    labels = shelf.store.labels(run, id)
    facts = episode_facts(episode, stored, labels, shelf.store, folder)
    if as_seat and as_seat not in facts["seats"]:
        raise BadInput(f"as={as_seat}: no such seat; there are {', '.join(facts['seats'])}")
    return render(
        "episode.html",
        shelf=shelf,
        run=stored,
        svg=Markup(facts.pop("graph")),
        as_seat=as_seat,
        seen=seen_by(episode, as_seat, shelf.store) if as_seat else [],
        scores=shelf.store.scores(run, id),
        forks=shelf.lines(shelf.index.forks(episode.ref)),
        waiting=[case for case in shelf.store.cases(run, id) if case.kind != "label"],
        altered=[entry.turn.key for entry in journal if not entry.intact],
        **facts,
    )


def _report(shelf: Shelf, run: str) -> Response:
    """The run's report, its styles moved where the policy allows them."""
    import json

    from .report import render as report_page
    from .report import report_facts

    stored, kept = shelf.store.run(run), shelf.path.parent / "report.json"
    if shelf.index.count(run) <= REPORTED:
        facts = report_facts(shelf.store, run)
    elif kept.is_file() and (facts := json.loads(kept.read_text())).get("run") == run:
        pass
    else:
        raise BadInput(
            f"{run}: the report of a run so long takes a while: `superalign report {run}`"
        )
    with DRAWING:
        page = report_page(facts, stored.scenario)
    body = page[page.index("<main>") + 6 : page.index("</main>")]
    return render("report.html", shelf=shelf, run=stored, body=Markup(unstyled(body)))


def unstyled(page: str) -> str:
    """HTML with each style attribute turned into presentation attributes, which SVG knows and the
    policy allows. Stored text is escaped in it, so no quotation mark of it can be taken for one."""

    def attributes(found: re.Match[str]) -> str:
        pairs = (part.split(":", 1) for part in found[1].split(";") if ":" in part)
        return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)

    return re.sub(r'(?<= )style="([^"<>]*)"(?=[^<>]*>)', attributes, page)


def _lineage(shelf: Shelf, run: str, ref: str) -> Response:
    try:
        from superalign.store.lineage import lineage

        from .lineage_page import svg
    except ImportError:
        raise BadInput("lineage: this superalign cannot draw it") from None
    graph = lineage(shelf.store, ref)
    return render(
        "lineage.html", shelf=shelf, run=shelf.store.run(run), ref=ref, svg=Markup(svg(graph))
    )


# What people write: answers to cases, into the labels file.


def _labelling(app: FastAPI, library: Library) -> None:
    @app.get("/label/{store}/{run}", response_class=HTMLResponse)
    def sheet(store: Name, run: Name, author: Author = "", message: Words = "") -> Response:
        shelf = library.shelf(store)
        stored, book = shelf.store.run(run), LabelBook.beside(shelf.store.url)
        author = author.strip()
        cases = labelling.queue(shelf.store, book, run, author, limit=1) if author else []
        left = len(labelling.queue(shelf.store, book, run, author)) if author else 0
        mine = labelling.label_status(shelf.store, book, run)["people"]
        mine = next((person for person in mine if person["author"] == author), None)
        return render(
            "label.html",
            shelf=shelf,
            run=stored,
            author=author,
            sheet=cases[0] if cases else None,
            lines=_judged_lines(cases[0]) if cases else [],
            left=left,
            mine=mine,
            message=message,
        )

    @app.post("/label/{store}/{run}", response_class=HTMLResponse)
    def act(
        store: Name,
        run: Name,
        author: Annotated[str, Form(min_length=1, max_length=64)],
        what: Annotated[Literal["answer", "skip", "undo"], Form()],
        episode: Annotated[str, Form(max_length=200)] = "",
        turn: Annotated[str, Form(max_length=1000)] = "",
        value: Annotated[str, Form(max_length=20_000)] = "",
        note: Annotated[str, Form(max_length=20_000)] = "",
        seconds: Annotated[float | None, Form(ge=0, le=1e6, allow_inf_nan=False)] = None,
    ) -> Response:
        shelf, place, author = library.shelf(store), (episode, turn), author.strip()
        shelf.store.run(run)
        where = shelf.store, LabelBook.beside(shelf.store.url), run, author
        message = ""
        if what == "answer":
            labelling.answer(*where, place, value, note, seconds)
        elif what == "skip":
            labelling.skip(*where, place)
        elif labelling.undo(*where) is None:
            message = "there is nothing to take back"
        back = url("label", store, run, author=author, message=message)
        return RedirectResponse(back, 303)


def _judged_lines(sheet: labelling.Sheet) -> list[str]:
    """The working lines of what is judged, where they are to be counted."""
    judged = sheet.judged
    if sheet.case.kind not in ("label", "critique") or judged is None:
        return []
    return labelling.working_lines(judged.content)
