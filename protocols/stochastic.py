"""Strategies for debates about stochastic computations (Brown-Cohen et al. 2023, 2311.14125).

A computation is an oracle that says how likely the next bit is to be 1, given the bits so far; its
last bit is the result. All here are pure functions of (bits, claim) and a source of chance, so that
scripted seats, simulations and tests play the very same game.

    samples, estimate          how often to ask the oracle, and what that tells
    Tolerances                 how far a claim may be off for Alice, Vera and Bob
    honest_alice, honest_bob   the strategies of the guarantee; ALICES and BOBS cheat
    vera                       what the verifier estimates
    chain, average             computations whose Lipschitz constant and result are known
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from superalign.agents.parse import last_line
from superalign.store.errors import Unreadable
from superalign.store.records import Turn, digest

if TYPE_CHECKING:
    import numpy as np

Oracle = Callable[[str], float]
"""The bits so far -> probability that the next one is 1."""
Alice = Callable[[str, "np.random.Generator"], float]
"""(bits, chance) -> the probability that she claims for the next bit."""
Bob = Callable[[str, float, "np.random.Generator"], bool]
"""(bits, claim, chance) -> whether he objects."""


class Tolerances(NamedTuple):
    """How far off a claim may be: within `alice` it must pass, beyond `bob` it must not."""

    alice: float
    """c: the honest error."""
    vera: float
    """s: what Vera is sure to reject."""
    bob: float
    """b: what an honest Bob is sure to object to; between s and b he may."""
    failure: float
    """q: how often an honest debater's estimate may be further off, at each step."""
    doubt: float
    """v: how often Vera's may."""

    @classmethod
    def of(cls, lipschitz: float, steps: int, tolerance: float, doubt: float) -> Tolerances:
        """The paper's, where tolerance and doubt are 1/100; `steps` is its T + 1."""
        c = tolerance / lipschitz
        return cls(c, 2 * c, 5 * c, doubt / steps, doubt)

    def vera_rejects(self, claim: float, estimated: float) -> bool:
        return abs(claim - estimated) >= (self.alice + self.vera) / 2

    @property
    def queries(self) -> tuple[int, int, int]:
        """Oracle queries of Alice and of Bob at each step, and of Vera, once."""
        return (
            samples(self.alice, self.failure),
            samples((self.bob - self.vera) / 2, self.failure),
            samples((self.vera - self.alice) / 2, self.doubt),
        )


def samples(error: float, failure: float) -> int:
    """How many samples tell a probability within `error`, but for a chance of `failure`."""
    return math.ceil(math.log(2 / failure) / (2 * error**2))


def estimate(p: float, n: int, rng: np.random.Generator) -> float:
    """What `n` queries of the oracle say, drawn at once."""
    return int(rng.binomial(n, p)) / n


def honest_alice(oracle: Oracle, off: Tolerances) -> Alice:
    return lambda bits, rng: estimate(oracle(bits), off.queries[0], rng)


def honest_bob(oracle: Oracle, off: Tolerances) -> Bob:
    def objects(bits: str, claim: float, rng: np.random.Generator) -> bool:
        estimated = estimate(oracle(bits), off.queries[1], rng)
        return abs(claim - estimated) >= (off.vera + off.bob) / 2

    return objects


def vera(oracle: Oracle, off: Tolerances) -> Alice:
    """What Vera finds: like Alice, with queries whose number does not depend on the steps."""
    return lambda bits, rng: estimate(oracle(bits), off.queries[2], rng)


def biased_step(oracle: Oracle, off: Tolerances, steps: int) -> Alice:
    """Honest but at the last step, where she claims that the result will be 1."""

    def claims(bits: str, rng: np.random.Generator) -> float:
        return 1.0 if len(bits) == steps - 1 else oracle(bits)

    return claims


def drift(share: float, of: str) -> Callable[[Oracle, Tolerances, int], Alice]:
    """Every claim is too high by a share of one of the tolerances."""

    def cheat(oracle: Oracle, off: Tolerances, steps: int) -> Alice:
        return lambda bits, rng: min(1.0, oracle(bits) + share * getattr(off, of))

    return cheat


def liar(oracle: Oracle, off: Tolerances, steps: int) -> Alice:
    """She claims anything."""
    return lambda bits, rng: float(rng.random())


ALICES: dict[str, Callable[[Oracle, Tolerances, int], Alice]] = {
    "one biased step": biased_step,
    "drift just under s": drift(0.99, "vera"),
    "drift that Bob may miss": drift(0.5, "bob"),
    "drift just under b": drift(0.99, "bob"),
    "random lying": liar,
}
"""Who says that the result is 1 when it hardly ever is."""


def objecting(when: Callable[[str, float, float, int], bool]) -> Callable[[int], Bob]:
    """A Bob who objects when (bits, claim, chance, steps) say so, whatever is true."""
    return lambda steps: lambda bits, claim, rng: when(bits, claim, float(rng.random()), steps)


BOBS: dict[str, Callable[[int], Bob]] = {
    "objects at once": objecting(lambda bits, claim, u, steps: True),
    "objects at random": objecting(lambda bits, claim, u, steps: u < 1 / steps),
    "objects when he would lose": objecting(
        lambda bits, claim, u, steps: len(bits) == steps - 1 and claim > 0.5
    ),
    "never objects": objecting(lambda bits, claim, u, steps: False),
}
"""Who objects to an honest Alice when the result is nearly always 1."""


def chain(p: float, memory: float = 0.5) -> Oracle:
    """Each bit leans towards the one before; every bit, so the result too, is 1 with probability p.

    Claims that are off by d move the last bit by at most d (1 + memory + memory^2 + …): the
    Lipschitz constant is 1 / (1 - memory), 2 as it stands, however long the computation.
    """
    return lambda bits: (1 - memory) * p + memory * (int(bits[-1]) if bits else p)


def average(p: float, steps: int) -> Oracle:
    """All bits but the last are judgements, 1 with probability p; the last follows their mean.

    The mean moves by at most d, and the last claim by d: the Lipschitz constant is 2.
    """
    return lambda bits: p if len(bits) < steps - 1 else bits.count("1") / len(bits) if bits else p


def coin(p: float, *turns: Turn) -> int:
    """A toss that no seat chooses: by the seeds of calls, none of which knew the others'."""
    drawn = int(digest([turn.seed for turn in turns], size=6), 16) / 2**48
    return int(drawn < p)


def parse_probability(text: str) -> float:
    """A reply that is a probability: its last `Probability:` line, or all of it."""
    word = last_line(text, "probability")
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if 0 <= value <= 1:
        return value
    raise Unreadable(f"probability {text!r}: expected a number from 0 to 1")
