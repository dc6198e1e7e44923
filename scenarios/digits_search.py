"""The debaters of the pixel game: Monte Carlo tree search against the exact judge.

Irving et al. 2018: no learned prior or value. A rollout goes down a tree of pixels shown and on to
the end of the game, where the judge decides; a move's worth is the mean of what followed it, +1 a
game won, -1 a game lost. In the tree it takes the move with the highest

    Q + c P sqrt(visits of the node) / (1 + visits of the move),   c = 1, P = 1 / lit pixels

one new node a rollout, below which moves are drawn uniformly. Played is the most visited move.

Many games go through each rollout at once, as rows of one array. A search knows the image and what
the players claim, never the label: whoever lies searches as well as whoever does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .digits_judge import Floats, Ints, Judge

C = 1.0
OPEN = -1
"""The claim of who has committed to nothing but that the other is wrong."""
NOISE = 1 << 18


class Games(NamedTuple):
    """Games that start: one a row."""

    images: Floats
    """Values from 0 to 1."""
    first: Ints
    """The digit that the player claims who moves first, or OPEN."""
    second: Ints

    def take(self, rows: Ints) -> Games:
        return Games(self.images[rows], self.first[rows], self.second[rows])


class Played(NamedTuple):
    """Games that have ended."""

    moves: Ints
    """Which pixels were shown, in order: one game a row."""
    first: NDArray[np.bool_]
    """Whether the player won who moved first."""


def first_wins(logits: Floats, first: Ints, second: Ints) -> NDArray[np.bool_]:
    """The rule. Two digits claimed: the higher logit. One OPEN: does the judge say the other."""
    games, said = np.arange(len(logits)), logits.argmax(axis=1)
    higher = logits[games, first] >= logits[games, second]
    return np.where(first == OPEN, said != second, np.where(second == OPEN, said == first, higher))


def play(judge: Judge, games: Games, pixels: int, rollouts: int, seed: int) -> Played:
    """Play games to their end, both players by search."""
    rng = np.random.default_rng(seed)
    moves = np.zeros((len(games.images), 0), dtype=np.int64)
    for _ in range(pixels):
        best = search(judge, games, moves, pixels, rollouts, rng)
        moves = np.concatenate([moves, best[:, None]], axis=1)
    won = first_wins(judge.logits(games.images, moves), games.first, games.second)
    return Played(moves, won)


def search(
    judge: Judge,
    games: Games,
    moves: Ints,
    pixels: int,
    rollouts: int,
    rng: np.random.Generator,
) -> Ints:
    """The pixel to show next in each game, after `moves`."""
    slots, legal = lit(games.images, moves)
    tree = Tree(legal, rollouts, rng)
    left = pixels - moves.shape[1]
    mover = 1.0 if moves.shape[1] % 2 == 0 else -1.0
    for _ in range(rollouts):
        path = tree.descend(left)
        shown = np.concatenate([moves, np.take_along_axis(slots, path, axis=1)], axis=1)
        won = first_wins(judge.logits(games.images, shown), games.first, games.second)
        tree.learn(np.where(won, mover, -mover).astype(np.float32))
    return slots[np.arange(len(slots)), tree.best()]


def lit(images: Floats, moves: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where the lit pixels of each image lie, in rows of one length; which may be shown still."""
    bright = images > 0
    counts = bright.sum(axis=1)
    width = int(counts.max())
    slots = np.argsort(~bright, axis=1, kind="stable")[:, :width]
    legal = np.arange(width) < counts[:, None]
    for move in moves.T:
        legal &= slots != move[:, None]
    return slots, legal


class Tree:
    """One search tree a game, all of them descended at once.

    Node 0 is the root, node 1 is always empty and stands for whatever lies below the tree, and
    rollout i adds node i + 2. `child` is 0 where a move leads to no node yet.
    """

    def __init__(self, legal: NDArray[np.bool_], rollouts: int, rng: np.random.Generator) -> None:
        games, width = legal.shape
        shape = games, rollouts + 2, width
        self.visits = np.zeros(shape, dtype=np.float32)
        self.worth = np.zeros(shape, dtype=np.float32)
        self.child = np.zeros(shape, dtype=np.int32)
        self.barred = np.where(legal, np.float32(0), np.float32(-np.inf))
        self.prior = C / legal.sum(axis=1, keepdims=True).astype(np.float32)
        self.rows = np.arange(games)
        self.rng, self.nodes = rng, 2
        self.noise = rng.random(max(NOISE, 4 * legal.size), dtype=np.float32) * np.float32(1e-4)
        """Breaks ties, and draws moves below the tree; far smaller than one win."""
        self.steps: list[tuple[Ints, Ints]] = []
        """Of the last rollout: node and move of every game, level by level."""

    def descend(self, levels: int) -> Ints:
        """One rollout of every game: which moves it made."""
        at = np.zeros(len(self.rows), dtype=np.int64)
        barred, added, self.steps = self.barred.copy(), np.zeros(len(at), dtype=bool), []
        for _ in range(levels):
            move = self._choose(at) if not self.steps else self._choose(at, barred)
            self.steps.append((at, move))
            barred[self.rows, move] = -np.inf
            below = self.child[self.rows, at, move].astype(np.int64)
            grows = (below == 0) & ~added & (at != 1)
            self.child[self.rows[grows], at[grows], move[grows]] = self.nodes
            at = np.where(grows, self.nodes, np.where(below == 0, 1, below))
            added |= grows
        self.nodes += 1
        return np.stack([move for _, move in self.steps], axis=1)

    def _choose(self, at: Ints, barred: Floats | None = None) -> Ints:
        """The move of each game at its node."""
        visits, worth = self.visits[self.rows, at], self.worth[self.rows, at]
        start = int(self.rng.integers(len(self.noise) - visits.size + 1))
        score = self.noise[start : start + visits.size].reshape(visits.shape).copy()
        score += self.barred if barred is None else barred
        root = np.sqrt(visits.sum(axis=1, keepdims=True)) * self.prior
        score += worth / np.maximum(visits, 1)
        visits += 1
        score += root / visits
        return score.argmax(axis=1)

    def learn(self, value: Floats) -> None:
        """Credit the last rollout with what it was worth to whoever moves at the root."""
        for level, (at, move) in enumerate(self.steps):
            inside = at != 1
            where = self.rows[inside], at[inside], move[inside]
            self.visits[where] += 1
            self.worth[where] += value[inside] if level % 2 == 0 else -value[inside]

    def best(self) -> Ints:
        """The most visited move of each game's root; the best of them where several are."""
        visits = self.visits[:, 0] + self.barred
        return (visits + self.worth[:, 0] / (4 * np.maximum(visits, 1))).argmax(axis=1)
