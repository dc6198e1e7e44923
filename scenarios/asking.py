"""Labels of an iteration: of people, of a simulated human, or of the control's oracle."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from superalign.learners import FlipRates, measure_flips
from superalign.protocols.setting import call_seed
from superalign.store import Case, Episode, Label, Store, Turn
from superalign.store.labels import LabelBook

from .choosing import Chosen, choose, control, simulate
from .labelling import label_case, labels_of, open_cases
from .policies import newest
from .scenario import Scenario


@dataclass(frozen=True)
class Asking:
    """Who labels the answers of one run, and which of them. None instead of labels: people have
    yet to answer."""

    run: str
    scenario: Scenario
    store: Store

    def labels(self, iteration: int, episodes: Iterable[Episode]) -> list[Label] | None:
        """An iteration's labels, asked for once."""
        labels, human = self.scenario.labels, self.scenario.labels.human
        if labels.control == "oracle":
            return control(episodes)
        stored = self.store.labels(self.run)
        mine = {e.id for e in episodes} if stored else set()
        done = [label for label in stored if label.episode in mine]
        if done or human is None:
            return done
        if human.source == "person":
            asked = self._cases(episodes)
            if not asked:
                asked = self._open(self._choose(iteration, episodes, self._rng(iteration)))
            return self._answered(asked)
        rng = self._rng(iteration)
        fresh = list(simulate(self._choose(iteration, episodes, rng), human.noise, rng))
        self.store.put_labels(fresh)
        return fresh

    def more(
        self, iteration: int, episodes: Iterable[Episode], labels: list[Label], *, ask: bool
    ) -> list[Label] | None:
        """These labels, and as many again of people on answers drawn at random that nobody has
        labelled. `ask` is whether to ask for them, or to take over what was asked for before."""
        human, scenario = self.scenario.labels.human, self.scenario
        assert human is not None
        seen = {(label.episode, label.turn) for label in labels}
        left = [c for c in self._cases(episodes) if (c.episode, c.turn) not in seen]
        if not ask:
            found = self._answered(left)
            return None if found is None else labels + found
        quota = max(1, human.budget // scenario.iterations)
        human = human.model_copy(update={"policy": "random"})
        rng = random.Random(call_seed(scenario.seed, f"alarm {iteration}"))
        asked = seen | {(case.episode, case.turn) for case in left}
        drawn = choose(
            episodes, human, len(asked) + quota, rng, self.flips(iteration), scenario.tested
        )
        fresh = [c for c in drawn if (c[0].episode.id, c[0].answer.key) not in asked]
        self._open(fresh[:quota])
        return None

    def flips(self, iteration: int) -> FlipRates:
        """The critics' error rates from every audit so far of the versions that now criticise."""
        human, past = self.scenario.labels.human, self.store.labels(self.run)
        audited = sorted({label.episode for label in past})
        now = newest(self.scenario, iteration - 1)

        def speaks(turn: Turn) -> bool:
            return now.get(turn.seat, turn.policy) == turn.policy

        return measure_flips(
            (
                episode
                for episode in self.store.episodes(self.run, ids=audited)
                if all(speaks(episode.turn(critique.turn)) for critique in episode.critiques)
            ),
            past,
            self.scenario.tested,
            human=human.noise if human else 0.0,
        )

    def _choose(
        self, iteration: int, episodes: Iterable[Episode], rng: random.Random
    ) -> list[Chosen]:
        """This iteration's share of the budget, spent by the policy on what is known so far."""
        scenario, human = self.scenario, self.scenario.labels.human
        assert human is not None
        quota = human.budget * iteration // scenario.iterations
        quota -= human.budget * (iteration - 1) // scenario.iterations
        return choose(episodes, human, quota, rng, self.flips(iteration), scenario.tested)

    def _rng(self, iteration: int) -> random.Random:
        return random.Random(call_seed(self.scenario.seed, f"labels {iteration}"))

    def _cases(self, episodes: Iterable[Episode]) -> list[Case]:
        mine = {e.id for e in episodes}
        return [c for c in self.store.cases(self.run) if c.kind == "label" and c.episode in mine]

    def _open(self, chosen: Iterable[Chosen]) -> list[Case]:
        """Lay answers before people."""
        cases = []
        for (episode, critique), why, raters in chosen:
            case, shown = label_case(episode, episode.turn(critique.about), why, raters)
            for message in shown:
                self.store.put_message(message, message.hash)
            cases.append(case)
        self.store.put_cases(cases)
        return cases

    def _answered(self, asked: Sequence[Case]) -> list[Label] | None:
        """The labels of these cases, stored; None as long as one is open."""
        book = LabelBook.beside(self.store.url)
        if any(case in asked for case in open_cases(self.store, book, self.run)):
            return None
        found = labels_of(asked, book.answers(self.run))
        self.store.put_labels(found)
        return found
