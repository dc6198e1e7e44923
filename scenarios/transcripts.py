"""What the commands on stored transcripts do: show, replay, verify."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from superalign.protocols.replay import replay
from superalign.store import BadInput, Episode, Score, Store

from .stored import find_episode, is_run, open_run, printable, stored_setting


def show_episode(
    ref: str, as_seat: str | None, store_url: str | None
) -> tuple[dict[str, Any], str]:
    """A transcript, or exactly the messages that one seat was given."""
    url, run, episode_id = find_episode(ref, store_url)
    with Store.open(url) as store:
        episode = next(store.episodes(run, ids=[episode_id]))
        if as_seat is None:
            scores = store.scores(run, episode_id)
            branches = store.branches(episode.ref)
            told = [_transcript(episode), *map(_later, scores)]
            told += [f"branch: {ref}" for ref in branches]
            more = {"scores": [s.model_dump(mode="json") for s in scores], "branches": branches}
            return {**episode.model_dump(mode="json"), **more}, printable("\n".join(told))
        turns = [turn for turn in episode.turns if turn.seat == as_seat]
        if not turns:
            seats = ", ".join(sorted({turn.seat for turn in episode.turns}))
            raise BadInput(f"--as {as_seat}: this seat never spoke; {seats} did")
        messages = store.messages(key for turn in turns for key in turn.messages)
    facts = [
        {"turn": t.key, "given": [messages[k].model_dump() for k in t.messages], "said": t.text}
        for t in turns
    ]
    return {"episode": episode.ref, "seat": as_seat, "calls": facts}, printable(_as_seen(facts))


def _transcript(episode: Episode) -> str:
    lines = [
        f"{episode.ref}  {episode.protocol}  iteration {episode.iteration}  {episode.status}",
        f"topic {episode.task.question.topic or '-'}  truth {episode.truth or '-'}",
    ]
    found = {critique.turn: critique for critique in episode.critiques}
    for turn in episode.turns:
        sure = f"  p={turn.confidence:.2f}" if turn.confidence is not None else ""
        hidden = f"  only for {', '.join(turn.visible_to)}" if turn.visible_to is not None else ""
        lines.append(f"\n{turn.key}  {turn.policy}{sure}{hidden}")
        text = turn.text if turn.error is None else f"failed: {turn.error}"
        lines += [f"  {line}" for line in text.splitlines()]
        if turn.key in found:
            lines.append(f"  -> about {found[turn.key].about}")
    if episode.parent is not None:
        made = f"forked at {episode.fork}" if episode.fork else "judged again"
        lines.insert(2, f"{made} from {episode.parent}")
    if episode.verdict is not None:
        lines.append(f"\nverdict: {episode.verdict.value}   rewards: {episode.rewards}")
    if episode.error is not None:
        lines.append(f"\nfailed: {episode.error}")
    return "\n".join(lines)


def _later(score: Score) -> str:
    """A later judgement, with who had it made and why."""
    verdict = score.verdict.value if score.verdict else score.error
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(score.at))
    why = f" ({score.reason})" if score.reason else ""
    return f"{score.name}, {score.author}, {when}{why}: {verdict}   rewards: {score.rewards}"


def _as_seen(calls: list[dict[str, Any]]) -> str:
    lines = []
    for call in calls:
        lines.append(f"\n{call['turn']} was given")
        lines += [f"  [{message['role']}] {message['content']}" for message in call["given"]]
        lines.append(f"and said\n  {call['said']}")
    return "\n".join(lines)


def replay_target(target: str, store_url: str | None) -> dict[str, Any]:
    """Replay a run, or one episode. No model is built, so none can be called."""
    if is_run(target, store_url):
        with open_run(target, store_url) as (store, run, _):
            return asyncio.run(_replay(store, run, None))
    url, run, episode = find_episode(target, store_url)
    with Store.open(url) as store:
        return asyncio.run(_replay(store, run, [episode]))


async def _replay(store: Store, run: str, ids: list[str] | None) -> dict[str, Any]:
    setting = stored_setting(store, run)
    divergences, episodes = [], 0
    for episode, journal in store.load(run, ids):
        episodes += 1
        if (found := await replay(setting, episode, journal)) is not None:
            divergences.append(found.model_dump())
    changed = setting.protocol.hash != store.run(run).protocol_hash
    return {
        "episodes": episodes,
        "model_calls": 0,
        "divergences": divergences,
        "protocol_changed": changed,
    }


def verify_store(url: str) -> dict[str, Any]:
    from superalign.store.verify import verify

    with Store.open(url) as store:
        records, damaged = verify(store)
    return {"ok": not damaged, "records": records, "damaged": [d.model_dump() for d in damaged]}
