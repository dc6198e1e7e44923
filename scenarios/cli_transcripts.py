"""The commands that look at what was said: show, replay, verify."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .console import Json, StoreUrl, app, show_facts


@app.command()
def show(
    episode: Annotated[str, typer.Argument(help="An episode's id, or the beginning of it.")],
    as_seat: Annotated[str | None, typer.Option("--as", help="As this seat was shown it.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show a stored transcript."""
    from .transcripts import show_episode

    facts, text = show_episode(episode, as_seat, store)
    show_facts(facts, as_json, lambda _: text)


@app.command()
def replay(
    target: Annotated[str, typer.Argument(metavar="RUN|EPISODE", help="What to replay.")],
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Run stored episodes again without any model and report every divergence."""
    from .transcripts import replay_target

    facts = replay_target(target, store)
    show_facts(facts, as_json, _divergences)
    raise typer.Exit(1 if facts["divergences"] else 0)


@app.command()
def verify(store: Annotated[str, typer.Argument(help="Store")], as_json: Json = False) -> None:
    """Check a store's hashes and its database; name what is damaged."""
    from .transcripts import verify_store

    facts = verify_store(store)
    show_facts(facts, as_json, lambda f: json.dumps(f, indent=2))
    raise typer.Exit(0 if facts["ok"] else 1)


def _divergences(facts: dict[str, Any]) -> str:
    lines = [f"{d['episode']} {d['turn']}: {d['what']}\n{d['diff']}" for d in facts["divergences"]]
    counts = f"{facts['episodes']} episodes replayed, {facts['model_calls']} model calls"
    return "\n".join([*lines, f"{counts}, {len(facts['divergences'])} divergences"])
