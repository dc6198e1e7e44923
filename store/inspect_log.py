"""A run as a log of Inspect (inspect.aisi.org.uk): one sample an episode, one lane a seat.

The format, as `inspect_ai` 0.3.285 reads and writes it, is a zip of JSON: `header.json` (what was
run, and means), `summaries.json` (a line of each sample), `samples/ID_epoch_1.json`, and
`_journal/` with the same again, from which a log that was cut short is recovered. It is written by
hand because inspect_ai asks for older versions of other packages than training does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import orjson

from .records import Episode, Message, Run, Score, Turn, digest
from .store import Store

SUMMARY = 500
"""Characters of a question in the list of samples."""
LONG = 100
"""Characters of the longest message that stands in each event that shows it."""


def write_inspect(store: Store, run: str, path: Path) -> dict[str, int]:
    """Write a run's episodes as `.eval`; how many there are, and how many of them failed.

    What nobody scored has no score there; means are over what was scored.
    """
    stored, later = store.run(run), defaultdict(list)
    for score in store.scores(run):
        later[score.episode].append(score)
    summaries, tally = [], Tally()
    with ZipFile(path, "w", ZIP_DEFLATED) as log:
        header = _header(stored)
        _put(log, "_journal/start.json", {k: header[k] for k in ("version", "eval", "plan")})
        for episode in store.episodes(run):
            keys = {key for turn in episode.turns for key in turn.messages}
            scores = _scores(episode, later[episode.id])
            sample = _sample(episode, store.messages(keys), scores)
            tally.add(episode, scores)
            _put(log, f"samples/{episode.id}_epoch_1.json", sample)
            summaries.append(_summary(sample))
        _put(log, "_journal/summaries/1.json", summaries)
        _put(log, "summaries.json", summaries)
        header["eval"]["dataset"]["samples"] = len(summaries)
        _put(log, "header.json", {**header, "results": tally.results()})
    return {"episodes": tally.episodes, "failed": tally.failed}


def _put(log: ZipFile, name: str, value: Any) -> None:
    log.writestr(name, orjson.dumps(value))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _header(run: Run) -> dict[str, Any]:
    scenario, id = run.scenario, digest(run.id)
    cast = {seat: member["model"] for seat, member in scenario["cast"].items()}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": id,
            "run_id": id,
            "created": _time(run.at),
            "task": scenario["name"],
            "task_id": run.id,
            "task_version": 0,
            "dataset": {"name": scenario["world"]["kind"]},
            "model": " + ".join(dict.fromkeys(cast.values())),
            "config": {},
            "packages": {"superalign": run.version},
            "metadata": {"run": run.id, "protocol": scenario["protocol"], "cast": cast}
            | {"seed": scenario["seed"], "parent": run.parent},
        },
        "plan": {"name": scenario["protocol"]["name"], "steps": [], "config": {}},
        "stats": {"started_at": _time(run.at), "completed_at": "", "model_usage": {}},
    }


def _sample(
    episode: Episode, messages: Mapping[str, Message], scores: dict[str, Any]
) -> dict[str, Any]:
    question = episode.question
    error = {"message": episode.error, "traceback": "", "traceback_ansi": ""}
    attachments: dict[str, str] = {}
    return {
        "id": episode.id,
        "epoch": 1,
        "input": question.text or question.topic,
        "choices": list(question.choices) or None,
        "target": episode.truth or "",
        "messages": [_said(turn) for turn in episode.turns if turn.error is None],
        "output": {"model": "", "choices": [], "completion": ""},
        "scores": scores,
        "metadata": {
            "topic": episode.task.question.topic,
            "iteration": episode.iteration,
            "status": episode.status,
            "seed": episode.seed,
            "parent": episode.parent,
            "facts": episode.facts,
            "critiques": [critique.model_dump() for critique in episode.critiques],
        },
        "store": {},
        "events": list(_events(episode, messages, attachments)),
        "model_usage": {},
        "total_time": episode.seconds,
        "error": error if episode.error else None,
        "attachments": attachments,
    }


def _said(turn: Turn) -> dict[str, Any]:
    """A turn in the list of messages: all were said by models, so the seat stands beside."""
    hidden = {} if turn.visible_to is None else {"only for": list(turn.visible_to)}
    metadata = {"seat": turn.seat, "kind": turn.kind, "turn": turn.key, **hidden}
    thought = {"type": "reasoning", "reasoning": turn.reasoning}
    spoken = {"type": "text", "text": turn.text}
    return {
        "id": digest(turn.key),
        "role": "assistant",
        "source": "generate",
        "content": [thought, spoken] if turn.reasoning else turn.text,
        "model": turn.policy,
        "metadata": metadata,
    }


def _shown(message: Message, attachments: dict[str, str]) -> dict[str, Any]:
    """A message that a model was given; an organism's tags are no roles of Inspect.

    What is long stands once in a sample, however often it was shown, and so does what looks like
    the name of such a text: else it could put another one in its place.
    """
    content = message.content
    if len(content) > LONG or "attachment:" in content:
        attachments[message.hash], content = content, f"attachment://{message.hash}"
    role = message.role if message.role in ("system", "assistant") else "user"
    known = message.role in ("system", "assistant", "user")
    return {
        "id": message.hash,
        "role": role,
        "content": content,
        "metadata": None if known else {"role": message.role},
    }


def _events(
    episode: Episode, messages: Mapping[str, Message], attachments: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Three events a turn: a span of the seat begins, its model is asked, the span ends."""
    begun = min((turn.at - turn.seconds for turn in episode.turns), default=0.0)
    for turn in episode.turns:
        span, asked = digest(episode.ref, turn.key), turn.at - turn.seconds
        start = {"span_id": span, "timestamp": _time(asked), "working_start": asked - begun}
        end = {"span_id": span, "timestamp": _time(turn.at), "working_start": turn.at - begun}
        yield {
            **start,
            "uuid": digest(span, "begin"),
            "event": "span_begin",
            "id": span,
            "type": "agent",
            "name": turn.seat,
        }
        given = [_shown(messages[key], attachments) for key in turn.messages if key in messages]
        yield {**start, **_model_event(turn, span, given)}
        yield {**end, "uuid": digest(span, "end"), "event": "span_end", "id": span}


def _model_event(turn: Turn, span: str, given: list[dict[str, Any]]) -> dict[str, Any]:
    stop = "stop" if turn.finish == "stop" else "max_tokens"
    said = [] if turn.error else [{"message": _said(turn), "stop_reason": stop}]
    tokens = turn.completion_tokens or 0
    usage = {"input_tokens": turn.prompt_tokens, "output_tokens": tokens}
    return {
        "uuid": digest(span, "model"),
        "event": "model",
        "model": turn.policy,
        "role": turn.seat,
        "input": given,
        "tools": [],
        "tool_choice": "none",
        "config": {**turn.sampling, "seed": turn.seed},
        "output": {
            "model": turn.policy,
            "choices": said,
            "completion": turn.text,
            "usage": {**usage, "total_tokens": turn.prompt_tokens + tokens},
            "time": turn.seconds,
        },
        "error": turn.error,
        "completed": _time(turn.at),
        "working_time": turn.seconds,
        "metadata": {"turn": turn.key, "kind": turn.kind, "source": turn.source},
    }


def _scores(episode: Episode, later: list[Score]) -> dict[str, Any]:
    """The verdict, each seat's reward, and what later judgements say."""
    found: dict[str, Any] = {}
    if (verdict := episode.verdict) is not None:
        metadata = {"seat": verdict.seat, "turn": verdict.turn, "confidence": verdict.confidence}
        found["verdict"] = {"value": verdict.value, "answer": verdict.value, "metadata": metadata}
    for seat, reward in episode.rewards.items():
        if reward is not None:
            found[f"reward of {seat}"] = {"value": reward}
    for score in later:
        about = {"author": score.author, "at": _time(score.at), "rewards": score.rewards}
        if score.verdict is not None:
            told = {"explanation": score.reason, "metadata": about}
            found[score.name] = {
                "value": score.verdict.value,
                "answer": score.verdict.value,
                **told,
            }
    return {name: {**score, "history": []} for name, score in found.items()}


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    kept = ("id", "epoch", "target", "scores", "model_usage")
    return {
        **{name: sample[name] for name in kept},
        "input": sample["input"][:SUMMARY],
        "metadata": {name: sample["metadata"][name] for name in ("topic", "iteration", "status")},
        "error": sample["error"] and sample["error"]["message"],
        "completed": True,
        "message_count": len(sample["messages"]),
    }


class Tally:
    """Means of rewards over those that were scored, and how often each verdict was reached."""

    def __init__(self) -> None:
        self.episodes = self.failed = 0
        self.rewards: dict[str, list[float]] = defaultdict(list)
        self.verdicts: Counter[str] = Counter()

    def add(self, episode: Episode, scores: Mapping[str, Any]) -> None:
        self.episodes += 1
        self.failed += episode.status != "done"
        for name, score in scores.items():
            if name.startswith("reward of "):
                self.rewards[name].append(score["value"])
        if episode.verdict is not None:
            self.verdicts[episode.verdict.value] += 1

    def results(self) -> dict[str, Any]:
        found = {name: {"mean": sum(all_) / len(all_)} for name, all_ in self.rewards.items()}
        counts = {name: len(all_) for name, all_ in self.rewards.items()}
        if self.verdicts:
            found["verdict"] = {value: float(n) for value, n in self.verdicts.most_common(10)}
            counts["verdict"] = self.verdicts.total()
        return {
            "total_samples": self.episodes,
            "completed_samples": self.episodes - self.failed,
            "scores": [
                {
                    "name": name,
                    "scorer": name,
                    "scored_samples": counts[name],
                    "unscored_samples": self.episodes - counts[name],
                    "params": {},
                    "metrics": {m: {"name": m, "value": v} for m, v in metrics.items()},
                }
                for name, metrics in found.items()
            ],
        }
