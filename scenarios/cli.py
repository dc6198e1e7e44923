"""The command line. Heavy imports happen inside the commands that need them.

Exit codes: 0 ok; 1 too many failed episodes, a divergence, or a failed check; 2 bad input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import (  # noqa: F401  # their commands join the app
    cli_compare,
    cli_exchange,
    cli_learn,
    cli_lineage,
    cli_new,
    cli_people,
    cli_plan,
    cli_store,
    cli_transcripts,
    cli_view,
)
from .console import PANELS, RUNS, Json, RunArg, Set, StoreUrl, app, show_facts, table


@app.command(rich_help_panel=RUNS)
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
    for alarm in facts["alarms"]:
        print(f"alarm: {alarm}", file=sys.stderr)
    for lacks in facts["lacks"]:
        print(f"not honoured by {lacks}", file=sys.stderr)
    for kept in facts["kept"]:
        print(f"kept: {kept}", file=sys.stderr)
    for some in facts["unanswered"]:
        print(f"unanswered: {some}; --resume asks them again", file=sys.stderr)
    for limit in facts["stopped"]:
        print(f"stopped: {limit}; loosen `stop`, and --resume goes on", file=sys.stderr)
    if facts["paused"]:
        print("paused: the same `superalign run` with --resume goes on", file=sys.stderr)
    if facts["waiting"]:
        label, again = f"superalign label {facts['run']}", "the same `superalign run` with --resume"
        print(f"waiting for people: {facts['waiting']}; `{label}`, then {again}", file=sys.stderr)
    show_facts(facts, as_json, lambda f: f"report: {Path(f['folder']) / 'report.html'}")
    raise typer.Exit(0 if ok else 1)


@app.command(rich_help_panel=RUNS)
def check(
    target: Annotated[
        str, typer.Argument(help="A scenario's file, a protocol's name, or FILE.py:name.")
    ],
    overrides: Set = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Import no user code.")] = False,
    as_json: Json = False,
) -> None:
    """Check a scenario and its protocol: graph, loops, seats, leaks."""
    from .commands import check_target

    facts, text = check_target(target, tuple(overrides or ()), run_code=not no_code)
    show_facts(facts, as_json, lambda _: text)
    raise typer.Exit(0 if facts["ok"] else 1)


@app.command("list", rich_help_panel=RUNS)
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
    show_facts(things, as_json, lambda found: table(found))


@app.command(rich_help_panel=RUNS)
def learn(
    run: RunArg,
    method: Annotated[str, typer.Option(help="A learner; `superalign list learners`.")],
    iteration: Annotated[int, typer.Option(help="The iteration whose rows teach.")] = 1,
    seat: Annotated[str | None, typer.Option(help="The seat whose rows teach.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights.")] = None,
    overrides: Set = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Train from a run's stored rows alone."""
    from .commands import learn_run

    facts = learn_run(run, method, iteration, out, tuple(overrides or ()), store, seat)
    show_facts(facts, as_json, lambda f: f"weights: {f['path']}")


@app.command(rich_help_panel=RUNS)
def report(run: RunArg, store: StoreUrl = None, as_json: Json = False) -> None:
    """Write a run's report, one HTML page with plots, and print its facts."""
    from .commands import report_run

    facts, path = report_run(run, store)
    show_facts(facts, as_json, lambda f: table(f["iterations"]) + f"\n{path}")


@app.command(rich_help_panel=RUNS)
def organism(
    name: Annotated[str, typer.Argument(help="The world it is made for: arithmetic.")],
    out: Annotated[Path, typer.Option(help="Folder for its weights.")],
    seed: Annotated[int, typer.Option(help="Seeds data and weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a model organism from nothing: a small model that can play every seat."""
    from .commands import make_organism

    facts = make_organism(name, out, seed)
    show_facts(facts, as_json, lambda f: json.dumps(f, indent=2))


app.registered_commands.sort(key=lambda command: PANELS.index(str(command.rich_help_panel)))


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
        from .stored import printable

        print(f"superalign: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
