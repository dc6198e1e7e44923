"""The commands on stores and the machine: migrate, doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .console import CARE, Json, app, show_facts


@app.command(rich_help_panel=CARE)
def migrate(
    store: Annotated[str, typer.Argument(help="Path or URL of a store.")], as_json: Json = False
) -> None:
    """Bring a store of an older schema up to date; a copy of an SQLite file is kept beside it."""
    from superalign.store.schema import migrate

    before, after, kept = migrate(store)
    facts = {"from": before, "to": after, "kept": kept and str(kept)}
    show_facts(facts, as_json, _migrated)


@app.command(rich_help_panel=CARE)
def doctor(
    target: Annotated[
        str | None, typer.Argument(metavar="[STORE|SCENARIO]", help="What to look at besides.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine, a store or a scenario's endpoints can be trusted with."""
    from .doctor import examine

    findings = examine(target)
    ok = all(finding.state != "bad" for finding in findings)
    facts = {"ok": ok, "findings": [finding.model_dump() for finding in findings]}
    show_facts(facts, as_json, _findings)
    raise typer.Exit(0 if ok else 1)


def _migrated(facts: dict[str, Any]) -> str:
    if facts["from"] == facts["to"]:
        return f"schema {facts['to']}: nothing to do"
    kept = f"; what it was: {facts['kept']}" if facts["kept"] else ""
    return f"schema {facts['from']} is now {facts['to']}{kept}"


def _findings(facts: dict[str, Any]) -> str:
    lines = []
    for found in facts["findings"]:
        lines.append(f"{found['state']:7}  {found['name']:14}  {found['value']}")
        if found["says"]:
            lines.append(f"{'':25}{found['says']}")
    return "\n".join(lines)
