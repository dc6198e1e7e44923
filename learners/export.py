"""Rows to datasets that TRL's trainers load, with a card that says where they come from.

`pref` and `rank` rows become the preference set {prompt, chosen, rejected}, a ranking as its best
against its worst with all `replies` and `rewards` beside them; `sft` rows become {prompt,
completion}. Prompts of chat models stay lists of {role, content}, which TRL renders with the
model's own chat template. Prompts in an organism's tags become one string with the tags' tokens
written out, `<|question|>2+2<|answer|>`: TRL's chat format has no roles for them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from superalign.agents.dialects import TAGS
from superalign.store.errors import BadInput
from superalign.store.records import Row

from .rows import best_first

CHAT = {"system", "user", "assistant", "tool"}
TAG = re.compile(rf"<\|(?:{'|'.join(TAGS)})\|>")
SETS = {"preference": ("pref", "rank"), "sft": ("sft",)}
"""Name of a set -> the kinds of rows in it."""
SPOKEN = {"preference": ("chosen", "rejected"), "sft": ("completion",)}
"""Name of a set -> its columns that hold a reply."""


def to_trl(
    rows: Sequence[Row], folder: Path, card: Mapping[str, Any], bos: str = ""
) -> dict[str, int]:
    """Write `preference.parquet`, `sft.parquet` and `README.md`; set -> how many rows it has.

    `card` says what the rows cannot: `protocol`, `models`, `license` and whatever else is known.
    `bos` is what an organism's template puts before a prompt, for TRL adds nothing to strings.
    Load with `datasets.load_dataset(folder, "preference")`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sets = {name: [row for row in rows if row.kind in kinds] for name, kinds in SETS.items()}
    sets = {name: members for name, members in sets.items() if members}
    if len({_is_chat(row) for row in rows}) != 1:
        raise BadInput("rows: need some, all in chat or all in tags; export one seat at a time")
    for name, members in sets.items():
        schema = _schema(name, _is_chat(members[0]))
        table = pa.Table.from_pylist([_record(row, bos) for row in members], schema)
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "README.md").write_text(_card(sets, card), encoding="utf-8")
    return {name: len(members) for name, members in sets.items()}


def _is_chat(row: Row) -> bool:
    return {message.role for message in row.prompt} <= CHAT


def _schema(name: str, chat: bool) -> pa.Schema:
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    spoken = pa.list_(message) if chat else pa.string()
    return pa.schema(
        [
            *((column, spoken) for column in ("prompt", *SPOKEN[name])),
            ("replies", pa.list_(pa.string())),
            ("rewards", pa.list_(pa.float64())),
            ("flip_prob", pa.float64()),
            ("source", pa.string()),
            ("judge", pa.string()),
            ("seat", pa.string()),
            ("turns", pa.list_(pa.string())),
            ("iteration", pa.int64()),
        ]
    )


def _record(row: Row, bos: str) -> dict[str, Any]:
    replies, rewards = best_first(row)
    return {
        "prompt": _prompt(row, bos),
        "chosen": _reply(row, replies[0]),
        "rejected": _reply(row, replies[-1]),
        "completion": _reply(row, replies[0]),
        "replies": replies,
        "rewards": rewards,
        "flip_prob": row.flip_prob,
        "source": row.source,
        "judge": row.judge,
        "seat": row.seat,
        "turns": row.turns,
        "iteration": row.iteration,
    }


def _prompt(row: Row, bos: str) -> Any:
    if _is_chat(row):
        return [message.model_dump() for message in row.prompt]
    return bos + "".join(f"<|{m.role}|>{_plain(row, m.content)}" for m in row.prompt)


def _reply(row: Row, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if _is_chat(row) else _plain(row, text)


def _plain(row: Row, text: str) -> str:
    if tag := TAG.search(text):  # in one string it could not be told from the real thing
        raise BadInput(f"row of {row.turns[0]}: its text spells the control token {tag[0]}")
    return text


def _card(sets: Mapping[str, Sequence[Row]], card: Mapping[str, Any]) -> str:
    rows = [row for members in sets.values() for row in members]
    counts = {name: Counter(row.source for row in members) for name, members in sets.items()}
    facts = {
        **{name: value for name, value in card.items() if name != "license"},
        "judges": ", ".join(sorted({row.judge for row in rows})),
        "episodes": len({turn.split("/")[1] for row in rows for turn in row.turns}),
    }
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in sets]
    header = {  # JSON is YAML
        "license": card.get("license", "unknown"),
        "tags": ["superalign", "preference", "trl"],
        "configs": configs,
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---"]
    lines += ["", "# Rows from superalign transcripts", ""]
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        lines.append(f"- **{name}**: {text}")
    lines += ["", "| set | rows | labels by source | mean flip_prob |", "|---|---|---|---|"]
    for name, members in sets.items():
        sources = ", ".join(f"{source} {n}" for source, n in sorted(counts[name].items()))
        flip = sum(row.flip_prob for row in members) / len(members)
        lines.append(f"| {name} | {len(members)} | {sources} | {flip:.4f} |")
    lines += [
        "",
        "`flip_prob` is the believed probability that a label is wrong, measured on audited "
        "answers; `turns` names the transcript turns behind a row, as run/episode/turn; `replies` "
        "and `rewards` hold the whole ranking, best first.",
        "",
    ]
    return "\n".join(lines)
