"""The commands on what was said: show, diff, replay, rejudge, fork, rescore, verify."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .console import SAID, Json, RunArg, Set, StoreUrl, app, show_facts


@app.command(rich_help_panel=SAID)
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


@app.command(rich_help_panel=SAID)
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


@app.command(rich_help_panel=SAID)
def diff(
    a: Annotated[str, typer.Argument(metavar="EPISODE", help="One branch.")],
    b: Annotated[str, typer.Argument(metavar="EPISODE", help="The other.")],
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show where two branches differ, turn by turn."""
    from .branching import diff_episodes

    facts, text = diff_episodes(a, b, store)
    show_facts(facts, as_json, lambda _: text)


Author = Annotated[str | None, typer.Option(help="Who does this; default: your login name.")]
Reason = Annotated[str, typer.Option(help="Why, for who reads the store later.")]
Resume = Annotated[bool, typer.Option(help="Go on with the newest one of the same scenario.")]


@app.command(rich_help_panel=SAID)
def rejudge(
    run: RunArg,
    seat: Annotated[str, typer.Option(help="The seat that speaks anew: critic, judge …")],
    overrides: Set = None,
    author: Author = None,
    reason: Reason = "",
    resume: Resume = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Judge stored episodes again: one seat calls a model, all others say what they said."""
    from .branching import rejudge_run
    from .progress import counting

    with counting("rejudge") as told:
        facts = rejudge_run(run, seat, tuple(overrides or ()), author, reason, resume, store, told)
    show_facts(facts, as_json, _rejudged)


@app.command(rich_help_panel=SAID)
def fork(
    episode: Annotated[str, typer.Argument(help="An episode's id, or the beginning of it.")],
    at: Annotated[str, typer.Option(help="The first turn that is not kept: a key or a number.")],
    overrides: Set = None,
    author: Author = None,
    reason: Reason = "",
    resume: Resume = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Go on live from one turn of a stored episode: what would have happened otherwise?"""
    from .branching import fork_episode

    facts = fork_episode(episode, at, tuple(overrides or ()), author, reason, resume, store)
    show_facts(facts, as_json, _forked)
    raise typer.Exit(1 if facts["status"] == "failed" else 0)


@app.command(rich_help_panel=SAID)
def rescore(
    run: RunArg,
    author: Author = None,
    reason: Reason = "",
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Apply a protocol's `score`, as it is now, to stored episodes; the old scores stay."""
    from .branching import rescore_run

    facts = rescore_run(run, author, reason, store)
    show_facts(facts, as_json, lambda f: f"{f['score']}: {f['changed']} of {f['episodes']} changed")


@app.command(rich_help_panel=SAID)
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


def _rejudged(facts: dict[str, Any]) -> str:
    lines = [f"{d['episode']} {d['turn']}: {d['what']}\n{d['diff']}" for d in facts["divergences"]]
    told = f"{facts['run']}: {facts['episodes']} episodes judged again, {facts['failed']} failed"
    changed = f"{facts['changed']} of {facts['both']} verdicts changed"
    return "\n".join([*lines, f"{told}, {len(facts['divergences'])} of them diverged; {changed}"])


def _forked(facts: dict[str, Any]) -> str:
    ended = facts["error"] or f"verdict {facts['verdict']}"
    compare = f"superalign diff {facts['parent']} {facts['episode']}"
    return f"{facts['episode']}: {facts['status']}, {ended}\n{compare}"
