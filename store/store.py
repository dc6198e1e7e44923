"""The store: what was said, as records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, func, select
from sqlmodel import SQLModel

from . import tables
from .access import Access, strip
from .database import core
from .errors import BadInput
from .records import (
    Case,
    Critique,
    Episode,
    Evaluation,
    Label,
    Message,
    PolicyVersion,
    Retraction,
    Row,
    Run,
    Score,
    Turn,
    Verdict,
    digest,
)
from .writers import Writer

LATELY = 100_000
"""Messages that are remembered as written. One that is written again changes nothing."""
AT_ONCE = 200
"""Episodes that are read together."""


class Entry(NamedTuple):
    """One turn as the journal holds it."""

    turn: Turn
    record_hash: str
    intact: bool
    """Whether its columns still have the hash that was written with them."""


class Store(Access):
    """Reads and writes records. Open with `Store.open`; close it, or use it in a `with`."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        super().__init__(engine, writer)
        self._messages: set[str] = set()

    def put_message(self, message: Message, key: str) -> None:
        """Queue a message under its hash, unless it was lately."""
        if key not in self._messages:
            if len(self._messages) == LATELY:
                self._messages.clear()
            self._messages.add(key)
            self._queue(tables.Messages, (message.role, message.content, key))

    def put_turn(self, run: str, episode: str, turn: Turn) -> str:
        """Queue one journal entry; gives its record hash."""
        return self.put(tables.Turns, {"run": run, "episode": episode, **turn.__dict__})

    def put_episode(self, episode: Episode) -> None:
        """Queue an ended episode with its critiques and verdict. Its turns lie in the journal."""
        where = {"run": episode.run, "episode": episode.id}
        for critique in episode.critiques:
            self.put(tables.Critiques, {**where, **critique.__dict__})
        if episode.verdict is not None:
            self.put(tables.Verdicts, {**where, **episode.verdict.__dict__})
        self.put(tables.Episodes, episode.__dict__)

    def put_run(self, run: Run) -> None:
        self._put_now(tables.Runs, [run.__dict__])

    def put_labels(self, labels: Iterable[Label]) -> None:
        self._put_now(tables.Labels, (label.__dict__ for label in labels))

    def put_scores(self, scores: Iterable[Score]) -> None:
        self._put_now(tables.Scores, (score.__dict__ for score in scores))

    def put_case(self, case: Case) -> None:
        """Queue a case; one that is there already stays as it is."""
        self.put(tables.Cases, case.__dict__)

    def put_cases(self, cases: Iterable[Case]) -> None:
        self._put_now(tables.Cases, (case.__dict__ for case in cases))

    def put_retractions(self, retractions: Iterable[Retraction]) -> None:
        self._put_now(tables.Retractions, (retraction.__dict__ for retraction in retractions))

    def put_rows(self, run: str, rows: Iterable[Row]) -> None:
        self._put_now(tables.Rows, ({"run": run, "id": row.id, **row.__dict__} for row in rows))

    def put_version(self, run: str, version: PolicyVersion, rows: Iterable[Row] = ()) -> None:
        """Write a policy version and the links to the rows that taught it."""
        taught = {"run": run, "version": version.id}
        for row in rows:
            self.put(tables.VersionRows, {**taught, "row": row.id})
        self._put_now(tables.Versions, [{"run": run, **version.__dict__}])

    def put_evaluations(self, run: str, evaluations: Iterable[Evaluation]) -> None:
        self._put_now(tables.Evaluations, ({"run": run, **e.__dict__} for e in evaluations))

    # Reading.

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        return self._records(Run, tables.Runs, order=core(tables.Runs).c.at)

    def run(self, run: str) -> Run:
        found = self._records(Run, tables.Runs, core(tables.Runs).c.id == run)
        if not found:
            known = ", ".join(r.id for r in self.runs()) or "none"
            raise BadInput(f"{run}: no such run in {self._engine.url}; it holds {known}")
        return found[0]

    def messages(self, keys: Iterable[str]) -> dict[str, Message]:
        """Messages by hash."""
        column, wanted, found = core(tables.Messages).c.hash, sorted(set(keys)), {}
        for start in range(0, len(wanted), 500):
            rows = self.raw(tables.Messages, column.in_(wanted[start : start + 500]))
            found |= {key: Message(role=role, content=content) for role, content, key in rows}
        return found

    def journal(self, run: str, episodes: Sequence[str]) -> dict[str, list[Entry]]:
        """Turns in transcript order with the record hashes that were written with them."""
        columns = core(tables.Turns).c
        codec = self.codec(tables.Turns)
        found: dict[str, list[Entry]] = {episode: [] for episode in episodes}
        for values in self.raw(tables.Turns, columns.run == run, columns.episode.in_(episodes)):
            row = codec.unpack(values)
            turns = found.setdefault(row["episode"], [])  # a damaged index brings others' turns
            turns.append(Entry(strip(Turn, row), values[-1], codec.intact(values)))
        for turns in found.values():  # not by the database, whose collation may be another
            turns.sort(key=lambda entry: entry.turn.key)
        return found

    def unfinished(self, run: str) -> set[str]:
        """Episodes that have journalled turns and no end: a killed run leaves them."""
        turns, ended = core(tables.Turns).c, core(tables.Episodes).c
        over = select(ended.id).where(ended.run == run)
        return set(self.column(turns.episode, turns.run == run, turns.episode.not_in(over)))

    def ended(self, run: str, ids: Sequence[str] | None = None) -> set[str]:
        """Ids of the episodes of a run, or of these few, that are done or failed."""
        columns = core(tables.Episodes).c
        where = [columns.run == run, *([] if ids is None else [columns.id.in_(ids)])]
        return set(self.column(columns.id, *where))

    def count(self, run: str, status: str | None = None) -> int:
        columns = core(tables.Episodes).c
        where = [columns.run == run, *([] if status is None else [columns.status == status])]
        return self.column(func.count(columns.id), *where)[0]

    def episodes(
        self, run: str, *, iteration: int | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[Episode]:
        """Episodes with turns, critiques and verdict, in plan order, a few hundred at a time."""
        columns = core(tables.Episodes).c
        if ids is None:
            where = self._in_iteration(tables.Episodes, run, iteration)
            ids = self.column(columns.id, *where, order=columns.index)
        for episode, _ in self.load(run, ids):
            yield episode

    def load(
        self, run: str, ids: Sequence[str] | None = None
    ) -> Iterator[tuple[Episode, list[Entry]]]:
        """Episodes with their journals, a few hundred at a time; None: all, in plan order.

        Unknown ids are passed over.
        """
        if ids is None:
            columns = core(tables.Episodes).c
            ids = self.column(columns.id, columns.run == run, order=columns.index)
        for start in range(0, len(ids), AT_ONCE):
            yield from self._load(run, ids[start : start + AT_ONCE])

    def _load(self, run: str, ids: Sequence[str]) -> Iterator[tuple[Episode, list[Entry]]]:

        def gather(table: type[SQLModel], name: str = "episode") -> dict[str, list[dict]]:
            where, unpack = core(table).c, self.codec(table).unpack
            found = defaultdict(list)
            for values in self.raw(table, where.run == run, where[name].in_(ids)):
                row = unpack(values)
                found[row[name]].append(row)
            return found

        heads, critiques = gather(tables.Episodes, "id"), gather(tables.Critiques)
        verdicts, journal = gather(tables.Verdicts), self.journal(run, ids)
        for episode in ids:
            if episode not in heads:
                continue
            said = (strip(Critique, row) for row in critiques[episode])
            verdict = next((strip(Verdict, row) for row in verdicts[episode]), None)
            found = Episode(
                **heads[episode][0],
                turns=tuple(entry.turn for entry in journal[episode]),
                critiques=tuple(sorted(said, key=in_order)),
                verdict=verdict,
            )
            yield found, journal[episode]

    def find(self, ref: str) -> tuple[str, str]:
        """(run, episode) of a reference `run/id`, an id, or the beginning of an id."""
        run, _, prefix = ref.rpartition("/")
        columns = core(tables.Episodes).c
        begins = columns.id.startswith(prefix, autoescape=True)
        query = select(columns.run, columns.id).where(begins)
        with self.connect() as db:
            found = db.execute(query.where(columns.run == run) if run else query).all()
        if len(found) != 1:
            what = "no such episode" if not found else f"{len(found)} episodes begin so"
            raise BadInput(f"{ref}: {what}; `superalign list episodes` names them")
        return found[0][0], found[0][1]

    def branches(self, ref: str) -> list[str]:
        """References of the episodes that were forked from one, or judge it again."""
        columns = core(tables.Episodes).c
        query = select(columns.run, columns.id).where(columns.parent == ref)
        with self.connect() as db:
            return sorted(f"{run}/{id}" for run, id in db.execute(query))

    def labels(self, run: str, episode: str | None = None) -> list[Label]:
        return self._records(Label, tables.Labels, *self._in_episode(tables.Labels, run, episode))

    def scores(self, run: str, episode: str | None = None) -> list[Score]:
        """Later judgements of a run's episodes, or of one, the oldest first."""
        where = self._in_episode(tables.Scores, run, episode)
        return self._records(Score, tables.Scores, *where, order=core(tables.Scores).c.at)

    def cases(self, run: str, episode: str | None = None) -> list[Case]:
        """What waits for a person or once did, in a run or in one episode, the oldest first."""
        where = self._in_episode(tables.Cases, run, episode)
        return self._records(Case, tables.Cases, *where, order=core(tables.Cases).c.at)

    def retractions(self, run: str) -> list[Retraction]:
        return self._records(Retraction, tables.Retractions, core(tables.Retractions).c.run == run)

    def rows(self, run: str, iteration: int | None = None) -> list[Row]:
        where = self._in_iteration(tables.Rows, run, iteration)
        return self._records(Row, tables.Rows, *where)

    def versions(self, run: str) -> list[PolicyVersion]:
        """Policy versions of a run, the oldest first."""
        columns = core(tables.Versions).c
        where, order = columns.run == run, columns.iteration
        return self._records(PolicyVersion, tables.Versions, where, order=order)

    def taught(self, run: str, version: str) -> list[str]:
        """Ids of the rows that taught a version."""
        columns = core(tables.VersionRows).c
        return self.column(columns.row, columns.run == run, columns.version == version)

    def evaluations(self, run: str, iteration: int | None = None) -> list[Evaluation]:
        where = self._in_iteration(tables.Evaluations, run, iteration)
        order = core(tables.Evaluations).c.item
        return self._records(Evaluation, tables.Evaluations, *where, order=order)

    def _in_episode(self, table: type[SQLModel], run: str, episode: str | None) -> list[Any]:
        columns = core(table).c
        where = [columns.run == run]
        return where if episode is None else [*where, columns.episode == episode]

    def _in_iteration(self, table: type[SQLModel], run: str, iteration: int | None) -> list[Any]:
        columns = core(table).c
        where = [columns.run == run]
        return where if iteration is None else [*where, columns.iteration == iteration]


def transcript_hash(turns: Iterable[Turn], verdict: Verdict | None, error: str | None) -> str:
    """Over what was said and decided, in key order. Equal transcripts have equal hashes."""
    said = [(t.key, t.seat, t.kind, t.text, t.error) for t in sorted(turns, key=lambda t: t.key)]
    return digest(said, (verdict.value, verdict.seat) if verdict else None, error)


def chain(episode: Mapping[str, Any], record_hashes: Sequence[str]) -> str:
    """Over the fields of an episode with verdict and critiques, then over the record hashes of
    its turns in key order, and how many there are."""
    own = {name: value for name, value in episode.items() if name not in ("turns", "chain")}
    return digest(own, *record_hashes, len(record_hashes))


def in_order(critique: Critique) -> tuple[str, str]:
    """How the critiques of an episode are sorted."""
    return critique.turn, critique.about
