"""What a run has spent at endpoints: every attempt that its store holds, and what that costs.

Attempts whose answer could not be used count as well, as far as the endpoint told their tokens. An
episode that was forked holds the calls that it took over: they are its parent's cost too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import select

from superalign.store import Store
from superalign.store.database import core
from superalign.store.tables import Evaluations, Turns

from .engines import Price


def spent_facts(store: Store, run: str) -> dict[str, Any] | None:
    """Calls, attempts, tokens and price, by model and in all; None where no endpoint was asked.

    The price is None where that of one of the models is not known.
    """
    engines = store.run(run).scenario.get("models", {})
    found: dict[str, dict[str, Any]] = defaultdict(
        lambda: dict.fromkeys(("calls", "attempts", "prompt_tokens", "completion_tokens"), 0)
    )
    for model, attempts in _calls(store, run):
        told = found[model]
        told["calls"] += 1
        told["attempts"] += len(attempts)
        for attempt in attempts:
            told["prompt_tokens"] += attempt["prompt_tokens"]
            told["completion_tokens"] += attempt["completion_tokens"]
    for model, told in found.items():
        price = engines.get(model, {}).get("price")
        counts = told["prompt_tokens"], told["completion_tokens"]
        told["price"] = Price(**price).of(*counts) if price else None
    prices = [told["price"] for told in found.values()]
    total = None if None in prices else sum(prices)
    return {"models": dict(sorted(found.items())), "price": total} if found else None


def _calls(store: Store, run: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Model and attempts of every call to an endpoint: in play, in tests, and of the probes."""
    with store.connect() as db:
        for table in (Turns, Evaluations):
            columns = core(table).c
            query = select(columns.policy, columns.attempts)
            query = query.where(columns.run == run, columns.attempts != "[]")
            for policy, attempts in db.execution_options(yield_per=1000).execute(query):
                told = orjson.loads(attempts)
                yield policy, told
    for version in store.versions(run):
        for attempt in version.config.get("abilities", {}).get("attempts", ()):
            yield version.id.partition("@")[0], [attempt]  # `NAME@2`: asked when it was resumed
