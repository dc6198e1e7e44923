"""What the arms of a comparison scored: items into means, with their intervals.

episodes -> Arm -> its facts
two arms -> the differences of their items
all arms -> how strong each policy debates
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from superalign.learners.estimates import Estimate, mean_interval, wilson
from superalign.store import Episode, Turn

from .cases import METRICS, Case, case_of, decision_of, item_scores, match
from .matched import Votes, fewer, mean_scores, votes_of
from .statistics import calibration, calibration_error, matthews


@dataclass
class Arm:
    """One or more runs that are compared as one, and what has been read of them."""

    name: str
    runs: tuple[str, ...] = ()
    derived: str | None = None
    """How it was computed, when no run was played for it."""
    spent: float | None = None
    """Calls of an episode, where none was played."""
    count: Counter[str] = field(default_factory=Counter)
    """Episodes by status, and calls and tokens of the finished ones."""
    cases: dict[str, list[Case]] = field(default_factory=lambda: defaultdict(list))
    protocols: set[str] = field(default_factory=set)
    decisions: Counter[tuple[Any, Any]] = field(default_factory=Counter)
    """(what was decided, what is so) -> how often."""
    matches: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(policy that won a debate, policy that lost it) -> how often."""
    votes: dict[str, list[Votes]] = field(default_factory=lambda: defaultdict(list))
    """Item -> the votes of each of its episodes, where a vote decided."""
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Item -> its scores."""

    def add(self, episode: Episode) -> None:
        """Count one episode; only a finished one is scored."""
        self.protocols.add(episode.protocol)
        self.count[episode.status] += 1
        if episode.status != "done":
            return
        self._cost(episode.turns)
        decided = decision_of(episode)
        if decided is not None:
            self.decisions[decided] += 1
        case = case_of(episode)
        if case is None:
            known = episode.verdict is not None and episode.verdict.answer is not None
            self.count["unknown" if known else "undecided"] += 1
            return
        self.cases[case.item].append(case)
        counted = votes_of(episode) if episode.protocol == "vote" else None
        if counted is not None:
            self.votes[case.item].append(counted)
        won = match(episode)
        if won is not None:
            self.matches[won] += 1

    def _cost(self, turns: Iterable[Turn]) -> None:
        for turn in turns:
            self.count["calls"] += 1
            self.count["prompt_tokens"] += turn.prompt_tokens
            self.count["completion_tokens"] += turn.completion_tokens or 0
            self.count["untold"] += turn.completion_tokens is None and turn.source == "ai"

    def close(self) -> Arm:
        """Score every item, once all episodes are read."""
        self.scores = {item: item_scores(self.cases[item]) for item in sorted(self.cases)}
        return self

    def values(self, metric: str) -> dict[str, float]:
        """Item -> its score, wherever it has one."""
        found = ((item, scores[metric]) for item, scores in self.scores.items())
        return {item: value for item, value in found if value is not None}

    @property
    def calls(self) -> float | None:
        """Calls of a finished episode."""
        if self.spent is not None:
            return self.spent
        return self.count["calls"] / self.count["done"] if self.count["done"] else None

    @property
    def tokens(self) -> float | None:
        """Tokens read and written in a finished episode; None unless every model told them."""
        total = self.count["prompt_tokens"] + self.count["completion_tokens"]
        return total / self.count["done"] if total and not self.count["untold"] else None


def matched_arm(arm: Arm, votes: Arm) -> Arm | None:
    """A vote of as many votes as `arm` makes calls; None when `votes` holds too few."""
    if arm.calls is None:
        return None
    m = max(1, round(arm.calls))
    found = {
        item: mean_scores(fewer(count, m) for count in counts)
        for item, counts in sorted(votes.votes.items())
        if all(count.n >= m for count in counts)
    }
    if not found:
        return None
    how = f"{m} of the votes of {votes.name}, mean over all choices of them"
    name = f"{votes.name} at the calls of {arm.name}"
    return Arm(name, votes.runs, how, protocols=votes.protocols, scores=found, spent=float(m))


def arm_facts(arm: Arm) -> dict[str, Any]:
    """All that is told of an arm. What nothing was measured of is None, which is not zero."""
    cases = [case for found in arm.cases.values() for case in found]
    speakers = [case for case in cases if case.argues]
    beliefs = [(c.confidence, c.right) for c in cases if c.confidence is not None]
    bins = calibration(beliefs)
    both = [found for found in arm.cases.values() if len({case.order for case in found}) > 1]
    same = [len({case.answer for case in found}) == 1 for found in both]
    means = {name: _interval(arm.values(name), name) for name in (*METRICS, "p_true", "asd_argued")}
    return {
        "name": arm.name,
        "runs": list(arm.runs),
        "protocol": ", ".join(sorted(arm.protocols)),
        "derived": arm.derived,
        "n": len(arm.scores),
        "episodes": arm.count["done"] + arm.count["failed"] + arm.count["waiting"],
        "failed": arm.count["failed"],
        "waiting": arm.count["waiting"],
        "undecided": arm.count["undecided"],
        "unknown": arm.count["unknown"],
        "settled": share(arm.count["done"] - arm.count["undecided"], arm.count["done"]),
        "accuracy": value(means["accuracy"]),
        "accuracy_ci": ends(means["accuracy"]),
        "p_true": value(means["p_true"]),
        "p_true_from": dict(sorted(Counter(case.source for case in cases).items())),
        "brier": value(means["brier"]),
        "brier_ci": ends(means["brier"]),
        "log_score": value(means["log_score"]),
        "log_score_ci": ends(means["log_score"]),
        "asd": value(means["asd"]),
        "asd_ci": ends(means["asd"]),
        "asd_n": len(arm.values("asd")),
        "asd_argued": value(means["asd_argued"]),
        "swap_consistency": value(wilson(sum(same), len(same))),
        "swap_consistency_ci": ends(wilson(sum(same), len(same))),
        "swapped_items": len(same),
        "mcc": matthews(arm.decisions),
        "ece": calibration_error(bins),
        "calibration": [b._asdict() for b in bins],
        "refusals": share(sum(case.refused for case in speakers), len(speakers)),
        "concessions": share(sum(case.conceded for case in speakers), len(speakers)),
        "calls": arm.calls,
        "tokens": arm.tokens,
    }


def _interval(values: Mapping[str, float], metric: str) -> Estimate | None:
    """A mean over items: Wilson's interval where every item is right or wrong, else bootstrap."""
    found = [values[item] for item in sorted(values)]
    if metric == "accuracy" and set(found) <= {0.0, 1.0}:
        return wilson(int(sum(found)), len(found))
    return mean_interval(found)


def pair_values(a: Arm, b: Arm, metric: str) -> tuple[list[float], int]:
    """a's score less b's, item by item; and how many items only one of them has."""
    ours, theirs = a.values(metric), b.values(metric)
    common = sorted(ours.keys() & theirs.keys())
    return [ours[item] - theirs[item] for item in common], len(ours.keys() ^ theirs.keys())


def ratings(arms: Iterable[Arm], fit: Callable[[Counter[tuple[str, str]]], Any]) -> dict[str, Any]:
    """Elo of every policy that debated another one, over all arms; or why there is none."""
    matches: Counter[tuple[str, str]] = Counter()
    for arm in arms:
        matches += arm.matches
    if not matches:
        return {"ratings": [], "why": "no two policies debated each other"}
    fitted = fit(matches)
    if fitted is None:
        why = "some policies won all their debates, lost all, or met only some of the others"
        return {"ratings": [], "why": f"{why}: no finite ratings fit best"}
    return {
        "ratings": [
            {
                "policy": name,
                "elo": found.value,
                "ci": found.ci,
                "won": sum(n for (won, _), n in matches.items() if won == name),
                "lost": sum(n for (_, lost), n in matches.items() if lost == name),
            }
            for name, found in sorted(fitted.items(), key=lambda f: (-f[1].value, f[0]))
        ],
        "why": None,
    }


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def value(estimate: Estimate | None) -> float | None:
    return estimate and estimate.value


def ends(estimate: Estimate | None) -> list[float] | None:
    return estimate and estimate.ci
