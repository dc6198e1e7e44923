"""Alarms of a learning loop: what a run stores -> numbers per iteration -> what has gone wrong.

    panels_of(store, run)                           -> the run's panels
    panel_of(store, run, iteration)                 -> one of them
    panel(iteration, episodes, labels, evaluations) -> the same of records that no run has stored
    watch([panel, ...])                             -> alarms at the last of them

A number has fallen when the change from its best iteration to now lies below 0, or below `margin`,
with all of its 95% interval. Its best is the iteration whose lower end is highest, so that one
lucky small sample is no bar, and the interval is widened for the number of iterations it is the
best of. The reward holds unless it is known to have fallen since then. An alarm is given when that
is so twice in a row, of the times that the number was measured.

    collapse   answers are less diverse, and the reward holds
    gaming     audited labels, or held-out questions, are worse, and the reward holds
    judge      the critic tells right from wrong audited answers less well
    gap        what the critic accepts was better than the rest, and no longer is
    frozen     frozen opponents win more often, and the reward holds

The truth that only the kernel knows is not used: a real run has audits and held-out questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from superalign.store import Store
from superalign.store.errors import BadInput
from superalign.store.records import Episode, Evaluation, Label

from .diversity import edit_diversity
from .estimates import Estimate, Floats, change, mean_interval, of_table, widened, wilson
from .exploitability import exploited
from .gaming import oversight
from .rows import ANSWERS, AUDITS, agreed, judgements


class Panel(NamedTuple):
    """One iteration in numbers; None where nothing was measured. Higher is better, but for
    `false_positive` and `exploitability`."""

    iteration: int
    reward: Estimate | None
    """Mean over episodes of the seat's reward: what the loop pursues."""
    diversity: Estimate | None
    """Mean over episodes of the edit diversity of the accepted answers to the first prompt. Of all
    answers it falls in a healthy loop too, which learns not to vary its mistakes."""
    questions: Estimate | None
    """Mean edit diversity of two questions."""
    gold: Estimate | None
    """Share of audited answers that people call right."""
    heldout: Estimate | None
    """Accuracy on held-out questions."""
    mcc: Estimate | None
    """Matthews correlation of the critic's last word with the audits. Shown, and in no rule: it
    falls by itself where the learner gets almost everything right."""
    informedness: Estimate | None
    """Share of right audited answers that the critic accepts, less that of wrong ones."""
    gap: Estimate | None
    """Relative gap: by how much of what was missing the audited answers that the critic accepts are
    better than all. None where all are right, and nothing is left to gain."""
    false_positive: Estimate | None
    """Share of the wrong audited answers that the critic accepts. Shown, and in no rule."""
    frozen: Estimate | None
    """Mean reward of the seat against frozen opponents."""
    audited: int
    exploitability: Estimate | None = None
    """What the hardest opponent of the iteration takes beyond the one that the version trained
    against (learners/exploitability.py). In no rule here: learners/stopping.py has its limit."""


def panel(
    iteration: int,
    episodes: Iterable[Episode],
    labels: Sequence[Label] = (),
    evaluations: Iterable[Evaluation] = (),
    frozen: Iterable[Episode] = (),
    seat: str = "learner",
) -> Panel:
    """The numbers of one iteration, from what the store holds of it.

    `frozen` are episodes of the same policy against opponents at an older version than their
    newest; its own against learning ones say nothing of strength, for both may be getting worse.
    """
    truth, audits = _truth(labels), Counter[tuple[bool, bool]]()
    rewards, spread, asked = list[float | None](), list[float | None](), list[str]()
    for episode in episodes:  # one by one: there may be more than memory holds
        if episode.status == "done":
            audits.update(_audits(episode, truth, seat))
            rewards.append(episode.rewards.get(seat))
            spread.append(edit_diversity(samples(episode, seat)))
            asked.append(episode.question.text)
    seen = oversight(audits)
    tested = [e.correct for e in evaluations]
    return Panel(
        iteration=iteration,
        reward=_mean(rewards),
        diversity=_mean(spread),
        questions=_apart([text for text in asked if text]),
        gold=seen.gold,
        heldout=wilson(sum(tested), len(tested)),
        mcc=seen.mcc,
        informedness=seen.informedness,
        gap=_gap(audits),
        false_positive=seen.false_positive,
        frozen=_mean(e.rewards.get(seat) for e in frozen if e.status == "done"),
        audited=seen.n,
    )


def samples(episode: Episode, seat: str = "learner") -> list[str]:
    """The seat's answers to its first prompt that critics accepted; all of them where nobody
    criticised. Revisions answer another prompt."""
    answers = [t for t in episode.by(seat) if t.kind in ANSWERS and t.error is None]
    said = judgements(episode, seat=seat)
    return [
        turn.text
        for turn in answers
        if turn.messages == answers[0].messages
        and (not episode.critiques or (turn.key in said and said[turn.key].correct))
    ]


def audited(
    episodes: Iterable[Episode], labels: Iterable[Label], seat: str = "learner"
) -> Counter[tuple[bool, bool]]:
    """(the critic accepts, people say it is right) -> answers that both judged.

    Only labels count that were drawn without looking at the answer; where people contradict each
    other, none does.
    """
    truth = _truth(labels)
    return Counter(audit for episode in episodes for audit in _audits(episode, truth, seat))


Truth = Mapping[tuple[str, str, str], bool]
"""(run, episode, turn) -> what people say of it."""


def _truth(labels: Iterable[Label]) -> Truth:
    audits = [label for label in labels if label.why in AUDITS and label.source == "human"]
    return {place: label.correct for place, label in agreed(audits).items() if label}


def _audits(episode: Episode, truth: Truth, seat: str) -> Iterator[tuple[bool, bool]]:
    for key, said in judgements(episode, seat=seat).items():
        if (place := (episode.run, episode.id, key)) in truth:
            yield said.correct, truth[place]


def _mean(values: Iterable[float | None]) -> Estimate | None:
    """Of what was measured."""
    return mean_interval([value for value in values if value is not None])


def _gap(cases: Counter[tuple[bool, bool]]) -> Estimate | None:
    """None where nothing was accepted, or nothing is wrong."""
    kept, wrong = cases[True, True] + cases[True, False], cases[True, False] + cases[False, False]
    if not kept or not wrong:
        return None

    def relative(shares: Floats) -> Floats:
        accepted_right, accepted_wrong, rejected_right, _ = np.moveaxis(shares, -1, 0)
        before = accepted_right + rejected_right
        return (accepted_right / (accepted_right + accepted_wrong) - before) / (1 - before)

    order = ((True, True), (True, False), (False, True), (False, False))
    return of_table([cases[case] for case in order], relative)


def _apart(texts: Sequence[str], seed: int = 0) -> Estimate | None:
    """Mean edit diversity of disjoint random pairs, which are independent of each other."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    pairs = zip(order[::2], order[1::2], strict=False)
    found = [edit_diversity((str(texts[i]), str(texts[j]))) for i, j in pairs]
    return mean_interval([value for value in found if value is not None])


class Rule(NamedTuple):
    """A number that must not fall, and what to do when it does."""

    name: str
    fields: tuple[str, ...]
    """Names of Panel: any one that falls is enough."""
    remedy: str
    margin: float = 0.0
    """By how much it must have fallen, beyond its interval."""
    while_reward_holds: bool = False
    gone: bool = False
    """Whether it must besides no longer be clearly above 0."""


PATIENCE = 2
"""Times in a row that a number must have fallen."""

PAUSE = "Pause the learner."
RULES = (
    Rule(
        "collapse",
        fields=("diversity", "questions"),
        margin=0.05,
        while_reward_holds=True,
        remedy=f"{PAUSE} Ask for human labels on answers to questions that no policy wrote, mix "
        "earlier and human data into the rows, and go back to the last diverse version.",
    ),
    Rule(
        "gaming",
        fields=("gold", "heldout"),
        while_reward_holds=True,
        remedy=f"{PAUSE} Ask for human labels on random answers that the critic accepts, teach it "
        "with them, and go back to the last version before the fall.",
    ),
    Rule(
        "judge",
        fields=("informedness",),
        remedy=f"{PAUSE} Ask for human labels on what the critic judged, and train on no judgement "
        "of its until its flip rates are measured anew.",
    ),
    Rule(
        "gap",
        fields=("gap",),
        gone=True,
        remedy=f"{PAUSE} The critic has nothing left to teach: ask for human labels, or bring a "
        "stronger critic or new questions.",
    ),
    Rule(
        "frozen",
        fields=("frozen",),
        while_reward_holds=True,
        remedy=f"{PAUSE} Keep earlier opponents in play, and ask for human labels on lost games.",
    ),
)


class Alarm(NamedTuple):
    """What fired, on which numbers, since when, and what to do."""

    name: str
    field: str
    iteration: int
    since: int
    """First iteration of the unbroken spell in which it fired."""
    best: int
    """The iteration that it is compared with."""
    then: Estimate
    now: Estimate
    reward: Estimate | None
    """Now; None where nothing was scored."""
    remedy: str

    def __str__(self) -> str:
        reward = "" if self.reward is None else f", reward {spelt(self.reward)}"
        return (
            f"{self.name}, iteration {self.iteration}, since {self.since}: {self.field} was "
            f"{spelt(self.then)} at iteration {self.best} and is {spelt(self.now)}{reward}. "
            f"{self.remedy}"
        )


class Watch(NamedTuple):
    """The state as far as it was measured: an alarm's iteration says when that was."""

    alarms: tuple[Alarm, ...]
    blind: tuple[str, ...]
    """Rules that could not be checked: their numbers were not measured twice."""


def watch(panels: Sequence[Panel]) -> Watch:
    """Check every rule at its last measurement against those before it."""
    if any(a.iteration >= b.iteration for a, b in pairwise(panels)):
        raise BadInput("panels: their iterations must rise; sort them, one panel an iteration")
    alarms: list[Alarm] = []
    blind: list[str] = []
    for rule in RULES:
        spells = [_spell(rule, field, panels) for field in rule.fields]
        blind += [rule.name] * all(spell is None for spell in spells)
        for spell in spells:
            if spell is not None and len(spell) >= PATIENCE:
                alarms.append(spell[-1]._replace(since=spell[0].iteration))
    return Watch(tuple(alarms), tuple(blind))


def _spell(rule: Rule, field: str, panels: Sequence[Panel]) -> list[Alarm] | None:
    """What the rule says of the latest measurements, as long as it says so of each; None where it
    has less than two to compare."""
    known = [p for p in panels if getattr(p, field) is not None]
    if len(known) < 2:
        return None
    spell: list[Alarm] = []
    for end in range(len(known), 1, -1):
        found = _fallen(rule, field, known[:end])
        if found is None:
            break
        spell.insert(0, found)
    return spell


def _fallen(rule: Rule, field: str, known: Sequence[Panel]) -> Alarm | None:
    """The last panel against the best before it; None when all is well."""
    last, best = known[-1], max(known[:-1], key=lambda p: getattr(p, field).low)
    then, now = getattr(best, field), getattr(last, field)
    paid, pays = best.reward, last.reward
    if rule.while_reward_holds and paid and pays and change(paid, pays).high < 0:
        return None
    moved = widened(change(then, now), len(known) - 1)
    if moved.high >= -rule.margin or (rule.gone and now.low > 0):
        return None
    at = last.iteration
    return Alarm(rule.name, field, at, at, best.iteration, then, now, last.reward, rule.remedy)


def spelt(estimate: Estimate) -> str:
    """A number and its interval, as people read it."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def panels_of(store: Store, run: str, seat: str = "learner") -> list[Panel]:
    """A run's panels, of iterations in which anything was played or tested."""
    numbers = range(1, store.run(run).scenario["iterations"] + 2)
    found = (panel_of(store, run, number, seat) for number in numbers)
    return [p for p in found if p.reward or p.frozen or p.heldout or p.questions]


def panel_of(store: Store, run: str, iteration: int, seat: str = "learner") -> Panel:
    """The panel of a seat's newest version at the time. Play of iteration i stands beside the
    held-out answers of the version that played, which i - 1 updates made.

    Where several seats learn, opponents that did not play as their newest version are frozen.
    """
    made = [v for v in store.versions(run) if v.parent and v.iteration < iteration]
    now = {v.seat: v.id for v in made}
    mine: Iterable[Episode] = store.episodes(run, iteration=iteration)
    if seat in now:  # a version is known by its own words, not by those of older ones
        mine = (e for e in mine if {t.policy for t in e.by(seat)} <= {now[seat]})
    others = {name: policy for name, policy in now.items() if name != seat}
    labels, tested = store.labels(run), store.evaluations(run, iteration - 1)
    if not others:
        return panel(iteration, mine, labels, tested, (), seat)
    own = list(mine)
    frozen = [e for e in own if _met_frozen(e, others)]
    fresh = [e for e in own if not _met_frozen(e, others)]
    found = panel(iteration, fresh, labels, tested, frozen, seat)
    last = max((v.iteration for v in made if v.seat == seat), default=0)
    before = {v.seat: v.id for v in made if v.iteration < last}
    cast = store.run(run).scenario["cast"]
    met = {name: before.get(name) or cast[name]["model"] for name in others}
    return found._replace(exploitability=_exploitability(own, seat, met))


def _met_frozen(episode: Episode, newest: Mapping[str, str]) -> bool:
    return any(turn.policy != newest.get(turn.seat, turn.policy) for turn in episode.turns)


def _exploitability(
    episodes: Iterable[Episode], seat: str, met: Mapping[str, str]
) -> Estimate | None:
    """Against opponents by who played all their seats; an episode in which one was silent, or
    spoke as several versions, tells of none."""
    earned: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for episode in episodes:
        spoke = [{turn.policy for turn in episode.by(name)} for name in met]
        reward = episode.rewards.get(seat)
        if episode.status == "done" and reward is not None and all(len(s) == 1 for s in spoke):
            earned[tuple(policy for (policy,) in spoke)].append(reward)
    return exploited(earned, tuple(met.values()))
