"""Where the human's labels go: half audits answers drawn at random, half follows a policy.

    random           answers drawn evenly
    least_confident  by rising confidence of the critic
    escalate         only answers that call for a person: the critic contradicts itself on one text,
                     or its confidence is below SURE. May leave budget unspent.
    expected_gain    by falling P(the critic is wrong) times the rows that the answer takes part in

`docs/labelling.md` gives the formulas. Equal candidates come in random order.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from superalign.learners import FlipRates
from superalign.learners.rows import rows as rows_of
from superalign.store import Critique, Episode, Label, Turn

from .scenario import HumanLabels

SURE = 0.9
"""Confidence below which a critic's word is escalated."""

SIMULATED = "simulated human"


class Candidate(NamedTuple):
    """An answer that could be labelled, and what the critic said of it last."""

    episode: Episode
    critique: Critique

    @property
    def answer(self) -> Turn:
        return self.episode.turn(self.critique.about)

    @property
    def confidence(self) -> float:
        """The critic's; a critic that tells none counts as sure."""
        return 1.0 if self.critique.confidence is None else self.critique.confidence


class Chosen(NamedTuple):
    """An answer that is to be labelled, on which policy's word, by how many people."""

    candidate: Candidate
    why: str
    raters: int


def choose(
    episodes: Iterable[Episode],
    human: HumanLabels,
    quota: int,
    rng: random.Random,
    flips: FlipRates,
    seat: str = "learner",
) -> list[Chosen]:
    """Spend `quota` labels on what critics judged: the larger half audits, the rest follows the
    policy. Two people are to see the first of the audited ones: `human.double` of them."""
    last = {(e.id, c.about): Candidate(e, c) for e in episodes for c in e.critiques}
    candidates = list(last.values())
    rng.shuffle(candidates)
    audits = (quota + 1) // 2
    audit, rest = candidates[:audits], candidates[audits:]
    twice = math.ceil(human.double * len(audit))
    chosen = [Chosen(c, "audit", 2 if i < twice else 1) for i, c in enumerate(audit)]
    ranked = rank(rest, human.policy, flips, seat)[: quota - len(audit)]
    return chosen + [Chosen(c, human.policy, 1) for c in ranked]


def rank(
    candidates: Sequence[Candidate], policy: str, flips: FlipRates, seat: str = "learner"
) -> list[Candidate]:
    """Candidates in the order in which a policy spends labels on them; ties stay as they are."""
    if policy == "least_confident":
        return sorted(candidates, key=lambda c: c.confidence)
    if policy == "escalate":
        calls = ((c, contradicted(c)) for c in candidates)
        urgent = [(not torn, c.confidence, c) for c, torn in calls if torn or c.confidence < SURE]
        return [c for *_, c in sorted(urgent, key=lambda u: u[:2])]
    if policy == "expected_gain":
        gain = expected_gain(flips, seat)
        return sorted(candidates, key=lambda c: -gain(c))
    return list(candidates)


def contradicted(candidate: Candidate) -> bool:
    """Whether critics both accepted and rejected the text of this answer, in this episode."""
    texts: defaultdict[str, set[bool]] = defaultdict(set)
    for critique in candidate.episode.critiques:
        texts[candidate.episode.turn(critique.about).text].add(critique.fault is None)
    return len(texts[candidate.answer.text]) > 1


def expected_gain(flips: FlipRates, seat: str) -> Callable[[Candidate], float]:
    """How many rows a label sets right on average: P(wrong) x rows of the answer."""
    used: dict[str, Counter[str]] = {}

    def gain(candidate: Candidate) -> float:
        episode = candidate.episode
        if episode.ref not in used:  # oracle critics too: nothing is trained on here
            found = rows_of(episode, seat, prompt_of=lambda _: (), flips=flips, control=True)
            made = [row for row in found if row.kind != "reward"]  # every answer has one
            used[episode.ref] = Counter(text for row in made for text in row.replies)
        return p_wrong(candidate, flips) * used[episode.ref][candidate.answer.text]

    return gain


def p_wrong(candidate: Candidate, flips: FlipRates) -> float:
    """Probability that what the critic said of this answer is wrong.

    Its word is right when it is what this critic would always say, which has the probability of
    its confidence, and when such words are right: P = 1 - (1 - e) confidence, with the error rate
    e that audits measured of such words (accepting or rejecting).
    """
    said = candidate.episode.turn(candidate.critique.turn)
    error = flips.error(candidate.critique.fault is None, said.source)
    return 1 - (1 - error) * candidate.confidence


def simulate(chosen: Iterable[Chosen], noise: float, rng: random.Random) -> Iterator[Label]:
    """Labels of a human whom the oracle plays: the truth, wrong with probability `noise`."""
    for (episode, critique), why, _ in chosen:
        right = episode.facts["fault"][critique.about] is None
        yield Label(
            run=episode.run,
            episode=episode.id,
            turn=critique.about,
            correct=right != (rng.random() < noise),
            source="human",
            author=SIMULATED,
            why=why,
        )


def control(episodes: Iterable[Episode]) -> list[Label]:
    """The truth about every answer, for a control arm."""
    return [
        Label(
            run=episode.run,
            episode=episode.id,
            turn=key,
            correct=fault is None,
            source="oracle",
            author="oracle",
            why="control",
        )
        for episode in episodes
        for key, fault in episode.facts.get("fault", {}).items()
    ]
