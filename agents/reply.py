"""Reading what an OpenAI-compatible server answers. Nothing in it is trusted to have its type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

PICK_TOKENS = 16
"""Tokens that `{"pick": N}` may take, however few a seat may write: its turn is N alone."""
REASONING = ("reasoning_content", "reasoning")
"""Fields in which servers give what a model wrote for itself."""
OPEN, CLOSE = "<think>", "</think>"
"""How models mark it that write it into the reply."""


class Broken(Exception):
    """An answer with status 200 that is none: `garbled` or `empty`, and why."""


def first_choice(reply: Any) -> dict[str, Any]:
    """The first choice of a reply. Raises Broken."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list):
        raise Broken("garbled", "the answer has no list of choices")
    if not choices:
        raise Broken("empty", "the answer has no choice")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        raise Broken("garbled", "the answer has no message with text")
    return choices[0]


def said_of(choice: dict[str, Any]) -> tuple[str, str]:
    """What the model wrote for itself, and what it said: the content, or the words of a refusal."""
    message = choice["message"]
    told = (message.get(field) for field in REASONING)
    reasoning = next((text for text in told if isinstance(text, str) and text), "")
    refusal = message.get("refusal")
    content = message.get("content") or (refusal if isinstance(refusal, str) else "")
    within, text = split_reasoning(content)
    return "\n".join(filter(None, (reasoning, within))), text


def split_reasoning(text: str) -> tuple[str, str]:
    """Reasoning that a server has left in a reply, and what is said after it.

    It stands between `<think>` at the very start and the first `</think>`; where a template has
    opened it in the prompt, the reply holds its end alone. What does not end was cut off: nothing
    is said after it. `<think>` anywhere else is ordinary text.
    """
    before, closing, after = text.partition(CLOSE)
    opened = before.lstrip().startswith(OPEN)
    if opened:
        return before.lstrip()[len(OPEN) :].strip(), after.lstrip()
    if closing and OPEN not in before:
        return before.strip(), after.lstrip()
    return "", text


def text_of(choice: dict[str, Any]) -> str:
    """What was said."""
    return said_of(choice)[1]


def usage_of(reply: Any) -> tuple[int, int]:
    """Prompt and completion tokens that a reply counts; 0 where it tells no number."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    found = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    prompt, completion = (n if type(n) is int and 0 <= n < 2**40 else 0 for n in found)
    return prompt, completion


def logprobs_of(choice: dict[str, Any]) -> tuple[float, ...] | None:
    """Natural log-probabilities of the tokens said, if all are told; not of reasoning."""
    reasoning, text = said_of(choice)
    entries = _entries(choice)
    if reasoning:
        start = _start(entries, text)
        entries = [] if start is None else [entry for at, entry in _placed(entries) if at >= start]
    return tuple(min(float(entry["logprob"]), 0.0) for entry in entries) or None


def pick_schema(picks: int) -> dict[str, Any]:
    """A `response_format` for `{"pick": N}`, N from 0 to one less than `picks`."""
    inner = {
        "type": "object",
        "properties": {"pick": {"type": "integer", "enum": list(range(picks))}},
        "required": ["pick"],
        "additionalProperties": False,
    }
    named = {"name": "pick", "strict": True, "schema": inner}
    return {"type": "json_schema", "json_schema": named}


def picked(text: str, picks: int) -> int | None:
    """N of a reply that is `{"pick": N}` and nothing else."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    pick = told.get("pick") if isinstance(told, dict) and len(told) == 1 else None
    return pick if type(pick) is int and 0 <= pick < picks else None


def pick_logprob(choice: dict[str, Any], picks: int) -> float | None:
    """Log of the probability of the number picked, among all numbers that may stand there.

    What the model would have written without the schema has no part in it: some servers tell
    probabilities from before the schema was laid over them, some from after.
    """
    entries, text = _entries(choice), text_of(choice)
    place, start = re.search(r":\s*(\d+)", text), _start(entries, text)
    if place is None or start is None:
        return None
    first, last = start + place.start(1), start + place.end(1)
    spanning = [e for at, e in _placed(entries) if at < last and at + len(e["token"]) > first]
    if len(spanning) != 1:  # a number of several tokens
        return sum(min(float(entry["logprob"]), 0.0) for entry in spanning) if spanning else None
    (said,) = spanning
    before, _, after = said["token"].partition(place[1])
    rivals = {f"{before}{number}{after}" for number in range(picks)} - {said["token"]}
    told = said.get("top_logprobs")
    others = [e for e in told if _is_token(e)] if isinstance(told, list) else []
    total = math.exp(said["logprob"])
    total += sum(math.exp(e["logprob"]) for e in others if e["token"] in rivals)
    return min(said["logprob"] - math.log(total), 0.0) if total else None


def _start(entries: list[dict[str, Any]], text: str) -> int | None:
    """Where a text begins in what its tokens spell: reasoning may stand before it."""
    found = "".join(entry["token"] for entry in entries).rfind(text)
    return found if found >= 0 and text else None


def _placed(entries: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every token with the place at which it begins."""
    at = 0
    for entry in entries:
        yield at, entry
        at += len(entry["token"])


def _entries(choice: dict[str, Any]) -> list[dict[str, Any]]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    entries = content if isinstance(content, list) else []
    return entries if all(map(_is_token, entries)) else []


def _is_token(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return False
    logprob: Any = entry.get("logprob")
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    return is_number and math.isfinite(logprob) and logprob <= 1e-6
