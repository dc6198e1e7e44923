"""Rows to datasets that TRL's trainers load, with a card that says where they come from.

Four sets, in the formats that TRL's trainers ask for:

    preference  {prompt, chosen, rejected}    of `pref` and `rank` rows: a ranking as its best
                                              against its worst, with all `replies` beside them
    unpaired    {prompt, completion, label}   each reply that a row says is good or bad
    prompt      {prompt}                      each once
    sft         {prompt, completion}          of `sft` rows

Prompts of chat models stay lists of {role, content}, which TRL renders with the model's own chat
template. Prompts in an organism's tags become one string with the tags' tokens written out,
`<|question|>2+2<|answer|>`: TRL's chat format has no roles for them.
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
from superalign.store.records import Row, digest

from .rows import best_first

CHAT = {"system", "user", "assistant", "tool"}
TAG = re.compile(rf"<\|(?:{'|'.join(TAGS)})\|>")
SPOKEN = {
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion"),
    "prompt": ("prompt",),
    "sft": ("prompt", "completion"),
}
"""Name of a set -> its columns that hold text: strings, or conversations."""
WHOSE = ("flip_prob", "source", "judge", "seat", "turns", "iteration")
OTHERS = {
    "preference": ("replies", "rewards", *WHOSE),
    "unpaired": ("label", *WHOSE),
    "prompt": ("seat", "turns", "iteration"),
    "sft": WHOSE,
}
"""Name of a set -> its columns that say where the text comes from and what it is worth."""
TYPES = {
    "label": pa.bool_(),
    "replies": pa.list_(pa.string()),
    "rewards": pa.list_(pa.float64()),
    "flip_prob": pa.float64(),
    "source": pa.string(),
    "judge": pa.string(),
    "seat": pa.string(),
    "turns": pa.list_(pa.string()),
    "iteration": pa.int64(),
}


def to_trl(
    rows: Sequence[Row], folder: Path, card: Mapping[str, Any], bos: str = ""
) -> dict[str, int]:
    """Write a parquet file a set, and `README.md`; set -> how many rows it has, if it has any.

    `card` says what the rows cannot: `protocol`, `models`, `license` and whatever else is known.
    `bos` is what an organism's template puts before a prompt, for TRL adds nothing to strings.
    Load with `datasets.load_dataset(folder, "preference")`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len({_is_chat(row) for row in rows}) != 1:
        raise BadInput("rows: need some, all in chat or all in tags; export one seat at a time")
    chosen = [_record(row, bos) for row in rows if row.kind in ("pref", "rank")]
    accepted = [_record(row, bos) for row in rows if row.kind == "sft"]
    judged = unpaired(accepted, chosen)
    sets = {"preference": chosen, "unpaired": judged, "prompt": _prompts([*chosen, *accepted])}
    sets = {name: found for name, found in {**sets, "sft": accepted}.items() if found}
    for name, found in sets.items():
        table = pa.Table.from_pylist(found, _schema(name, _is_chat(rows[0])))
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "README.md").write_text(_card(rows, sets, card), encoding="utf-8")
    return {name: len(found) for name, found in sets.items()}


def unpaired(
    accepted: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Each reply to a prompt once, with whether it is good; none of which both was said.

    `flip_prob` is the judgement's own where a row of one reply holds it. That of a pair says
    something else: how likely the pair is the wrong way round.
    """
    said = [(one, True, one["flip_prob"]) for one in accepted]
    for pair in chosen:
        for column, label in (("chosen", True), ("rejected", False)):
            said.append(({**pair, "completion": pair[column]}, label, None))
    found: dict[str, list[dict[str, Any]]] = {}
    for one, label, flip_prob in said:
        key = digest(one["prompt"], one["completion"])
        found.setdefault(key, []).append({**one, "label": label, "flip_prob": flip_prob})
    return [same[0] for same in found.values() if len({one["label"] for one in same}) == 1]


def _prompts(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({digest(one["prompt"]): one for one in reversed(records)}.values())[::-1]


def _is_chat(row: Row) -> bool:
    return {message.role for message in row.prompt} <= CHAT


def _schema(name: str, chat: bool) -> pa.Schema:
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    spoken = pa.list_(message) if chat else pa.string()
    texts = [(column, spoken) for column in SPOKEN[name]]
    return pa.schema([*texts, *((column, TYPES[column]) for column in OTHERS[name])])


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


def _card(
    rows: Sequence[Row], sets: Mapping[str, Sequence[dict[str, Any]]], card: Mapping[str, Any]
) -> str:
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
    for name, found in sets.items():
        counts = Counter(one["source"] for one in found) if name != "prompt" else {}
        sources = ", ".join(f"{source} {n}" for source, n in sorted(counts.items()))
        flips = [one["flip_prob"] for one in found if counts and one["flip_prob"] is not None]
        flip = f"{sum(flips) / len(flips):.4f}" if flips else ""
        lines.append(f"| {name} | {len(found)} | {sources} | {flip} |")
    lines += [
        "",
        "`flip_prob` is the believed probability that a label is wrong, measured on audited "
        "answers, and missing where no row holds it for one reply alone; `turns` names the "
        "transcript turns behind a row, as run/episode/turn; `replies` and `rewards` hold the "
        "whole ranking, best first.",
        "",
    ]
    return "\n".join(lines)
