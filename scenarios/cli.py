"""The command line. Heavy imports happen inside the commands that need them.

Exit codes: 0 ok; 1 too many failed episodes, a divergence, or a failed check; 2 bad input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Simulate scalable oversight: run protocols, replay transcripts, learn from them.",
)

Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key, e.g. --set seed=1. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print facts as one JSON value on stdout.")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", help="Path or URL of a store; default: that of the run.")
]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")]


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario's YAML file.")],
    overrides: Set = None,
    out: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    store: StoreUrl = None,
    resume: Annotated[bool, typer.Option(help="Go on with the newest unfinished run.")] = False,
    as_json: Json = False,
) -> None:
    """Run a scenario: play, label, learn, evaluate, report."""
    from .commands import run_scenario

    facts, ok = run_scenario(scenario, tuple(overrides or ()), out, store, resume)
    _print(facts, as_json, lambda f: f"report: {Path(f['folder']) / 'report.html'}")
    raise typer.Exit(0 if ok else 1)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A scenario file or a protocol's name.")],
    overrides: Set = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Import no user code.")] = False,
    as_json: Json = False,
) -> None:
    """Check a scenario and its protocol: graph, loops, seats, leaks."""
    from .commands import check_target

    facts, text = check_target(target, tuple(overrides or ()), run_code=not no_code)
    _print(facts, as_json, lambda _: text)
    raise typer.Exit(0 if facts["ok"] else 1)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="protocols, scenarios, worlds, learners, runs or episodes")
    ],
    run: Annotated[str | None, typer.Option(help="The run whose episodes are listed.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List what there is."""
    from .commands import list_things

    things = list_things(what, run, store)
    _print(things, as_json, lambda found: _table(found))


@app.command()
def show(
    episode: Annotated[str, typer.Argument(help="An episode's id, or the beginning of it.")],
    as_seat: Annotated[str | None, typer.Option("--as", help="As this seat was shown it.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show a stored transcript."""
    from .commands import show_episode

    facts, text = show_episode(episode, as_seat, store)
    _print(facts, as_json, lambda _: text)


@app.command()
def replay(
    target: Annotated[str, typer.Argument(metavar="RUN|EPISODE", help="What to replay.")],
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Run stored episodes again without any model and report every divergence."""
    from .commands import replay_target

    facts = replay_target(target, store)
    _print(facts, as_json, _divergences)
    raise typer.Exit(1 if facts["divergences"] else 0)


@app.command()
def learn(
    run: RunArg,
    method: Annotated[str, typer.Option(help="sft, dpo or exo.")],
    iteration: Annotated[int, typer.Option(help="The iteration whose rows teach.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights.")] = None,
    overrides: Set = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Train from a run's stored rows alone."""
    from .commands import learn_run

    facts = learn_run(run, method, iteration, out, tuple(overrides or ()), store)
    _print(facts, as_json, lambda f: f"weights: {f['path']}")


@app.command()
def report(run: RunArg, store: StoreUrl = None, as_json: Json = False) -> None:
    """Write a run's report, one HTML page with plots, and print its facts."""
    from .commands import report_run

    facts, path = report_run(run, store)
    _print(facts, as_json, lambda f: _table(f["iterations"]) + f"\n{path}")


@app.command()
def export(
    run: RunArg,
    path: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="The format: trl.")] = "trl",
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Export a run's rows: parquet files and a dataset card."""
    from .commands import export_run

    facts = export_run(run, path, to, store)
    _print(facts, as_json, lambda f: f"{f['rows']} rows in {f['path']}")


@app.command()
def verify(store: Annotated[str, typer.Argument(help="Store")], as_json: Json = False) -> None:
    """Check a store's hashes and its database; name what is damaged."""
    from .commands import verify_store

    facts = verify_store(store)
    _print(facts, as_json, lambda f: json.dumps(f, indent=2))
    raise typer.Exit(0 if facts["ok"] else 1)


@app.command()
def organism(
    name: Annotated[str, typer.Argument(help="The world it is made for: arithmetic.")],
    out: Annotated[Path, typer.Option(help="Folder for its weights.")],
    seed: Annotated[int, typer.Option(help="Seeds data and weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a model organism from nothing: a small model that can play every seat."""
    from .commands import make_organism

    facts = make_organism(name, out, seed)
    _print(facts, as_json, lambda f: json.dumps(f, indent=2))


def _print(facts: Any, as_json: bool, text: Any) -> None:
    from .commands import printable

    print(json.dumps(facts, indent=2, allow_nan=False) if as_json else printable(text(facts)))


def _table(things: list[dict[str, Any]]) -> str:
    """Facts as a plain table: one row a thing, nested values left to --json."""
    flat = [{k: v for k, v in thing.items() if not isinstance(v, dict)} for thing in things]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    lines = [columns] + [[_cell(row.get(c)) for c in columns] for row in flat]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list) and all(isinstance(v, float) for v in value):
        return " to ".join(f"{v:.3f}" for v in value)
    return "" if value is None else str(value)


def _divergences(facts: dict[str, Any]) -> str:
    lines = [f"{d['episode']} {d['turn']}: {d['what']}\n{d['diff']}" for d in facts["divergences"]]
    counts = f"{facts['episodes']} episodes replayed, {facts['model_calls']} model calls"
    return "\n".join([*lines, f"{counts}, {len(facts['divergences'])} divergences"])


def main() -> None:
    """Entry point: what a user did wrong ends with one line and exit code 2."""
    # Threads that spin while they wait make torch twice as slow on cores that others use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except KeyboardInterrupt:
        print("superalign: stopped; what was said is stored, go on with --resume", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from superalign.store.errors import SuperalignError  # loads SQLAlchemy, so only now

        if not isinstance(error, SuperalignError):
            raise
        from .commands import printable

        print(f"superalign: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
