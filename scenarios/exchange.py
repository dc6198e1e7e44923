"""What `export` and `import` do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from superalign.store import BadInput

from .stored import open_run


def export_run(run: str, path: Path, to: str, store_url: str | None) -> dict[str, Any]:
    """Write a run's rows in another tool's format."""
    if to != "trl":
        raise BadInput(f"--to {to}: unknown format; there is trl")
    from superalign.learners.export import to_trl

    with open_run(run, store_url) as (store, name, folder):
        rows, stored = store.rows(name), store.run(name)
        if not rows:
            raise BadInput(f"{name}: it has no rows to export")
        base = next((v for v in store.versions(name) if v.method == "base"), None)
    card = {
        "protocol": stored.scenario["protocol"],
        "models": stored.scenario["models"],
        "seed": stored.scenario["seed"],
        "superalign": stored.version,
    }
    sets = to_trl(rows, path, card, bos=_bos(folder / base.path) if base else "")
    return {"run": name, "path": str(path), "rows": sum(sets.values()), "sets": sets}


def _bos(folder: Path) -> str:
    """What a model's tokenizer begins with, read without loading it."""
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_text()).get("bos_token") or "" if config.is_file() else ""
