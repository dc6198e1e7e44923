"""digits: images of handwritten digits that the judge cannot see, for `pixel_debate`.

Irving et al. 2018 (arXiv:1805.00899). Embedded are the 1,797 images of 8 x 8 that scikit-learn
ships; a folder of IDX files, gzipped or not, gives MNIST instead. Where both `train-` and `t10k-`
files lie there, that is the split; else 500 images, or half of them where there are fewer than a
thousand, are held out by a fixed seed. A judge is trained on the other images when it is first
asked; games are played on the held-out ones alone.

A task is one game about one image. All games of an image come one after the other: with `precommit`
nine lies in two orders, a choice for each debater; without it two orders, all digits as choices.
Each debater's private note tells it what to claim, and the image:

    Claim: 3            or `Claim: not 3`, for a liar who has committed to nothing
    0 0 5 13 9 1 0 0    one line a row of the image, values from 0
    …
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from superalign.agents import Completion, Request
from superalign.protocols.pixel_debate import SIDES, parse_pixel
from superalign.store.errors import BadInput
from superalign.store.records import Question, Task

if TYPE_CHECKING:
    from .digits_judge import Judge

DIGITS = tuple(map(str, range(10)))
HELD_OUT, SPLIT_SEED = 500, 0
STEPS = 800
"""Batches that the judge is trained on."""
TOPIC = re.compile(r"digits/([0-9]{1,6})")
SHOWN = re.compile(r"row ([0-9]{1,3}), column ([0-9]{1,3}) is ([0-9]{1,3})")


class Images(NamedTuple):
    """Images and what they show."""

    raw: NDArray[np.uint8]
    """(images, rows, columns)."""
    labels: NDArray[np.int64]
    brightest: int
    test: NDArray[np.int64]
    """Numbers of the held-out images."""

    @property
    def flat(self) -> NDArray[np.float32]:
        """One image a row, values from 0 to 1."""
        return (self.raw.reshape(len(self.raw), -1) / self.brightest).astype(np.float32)

    @property
    def training(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(len(self.raw)), self.test)


class Digits:
    """Images whose debaters search, and whose judge has learnt from pixels drawn at random."""

    name = "digits"
    cells: tuple[str, ...] = ("image",)

    def __init__(
        self,
        path: Path | None = None,
        pixels: int = 4,
        precommit: bool = True,
        rollouts: int = 100,
    ) -> None:
        self.images = idx(path) if path else embedded()
        self.pixels, self.precommit, self.rollouts = pixels, precommit, rollouts

    @cached_property
    def judge(self) -> Judge:
        from .digits_judge import train

        mine = self.images.training
        return train(self.images.flat[mine], self.images.labels[mine], self.pixels, STEPS)

    def topic(self, cell: str) -> Task:
        raise NotImplementedError("digits has no attacker: its tasks are its held-out images")

    def tasks(self, n: int, seed: int) -> Iterator[Task]:
        """The first `n` games, the images in an order that the seed draws."""
        images = np.random.default_rng(seed).permutation(self.images.test)
        games = [game for number in images for game in self._games(int(number))]
        if n > len(games):
            raise BadInput(f"episodes: {n} asked for, but digits has {len(games)} games")
        yield from games[:n]

    def _games(self, number: int) -> list[Task]:
        truth = str(self.images.labels[number])
        lies = [digit for digit in DIGITS if digit != truth] if self.precommit else [f"not {truth}"]
        pairs = [pair for lie in lies for pair in ((truth, lie), (lie, truth))]
        rows = "\n".join(" ".join(map(str, row)) for row in self.images.raw[number])
        return [
            Task(
                question=Question(
                    topic=f"digits/{number}",
                    text=f"Which digit does image {number} show?",
                    choices=pair if self.precommit else DIGITS,
                ),
                target=truth,
                private={s: f"Claim: {c}\n{rows}" for s, c in zip(SIDES, pair, strict=True)},
            )
            for pair in pairs
        ]

    def heldout(self, n: int) -> list[Task]:
        raise BadInput("evaluate: digits has no questions to learn from; leave `evaluate` out")

    def cell(self, question: Question) -> str | None:
        """`image` of a held-out image, and of a true word about one lit pixel of it."""
        number = self._number(question)
        if number is None or not question.text.startswith("row "):
            return None if number is None else "image"
        found = SHOWN.fullmatch(question.text)
        row, column, value = map(int, found.groups()) if found else (0, 0, 0)
        rows, columns = self.images.raw.shape[1:]
        inside = row < rows and column < columns
        true = inside and self.images.raw[number, row, column] == value > 0
        return "image" if true else None

    def _number(self, question: Question) -> int | None:
        found = TOPIC.fullmatch(question.topic)
        number = int(found[1]) if found else -1
        return number if number in self._held else None

    @cached_property
    def _held(self) -> frozenset[int]:
        return frozenset(map(int, self.images.test))

    def truth(self, question: Question) -> str:
        number = self._number(question)
        assert number is not None  # the question is valid
        return str(self.images.labels[number])

    def correct(self, question: Question, answer: str) -> bool:
        return answer.strip() == self.truth(question)

    def fault(self, question: Question, answer: str) -> int | None:
        return None if self.correct(question, answer) else 1

    def player(self, request: Request) -> Completion:
        """Plays every seat: debaters by search, the judge by its network."""
        kind = request.view.ask.kind
        if kind == "claim":
            return Completion(_note(request)[0])
        if kind == "pixel":
            return Completion(self._move(request))
        if kind == "verdict":
            return self._verdict(request)
        raise ValueError(f"digits plays claim, pixel and verdict, not {kind!r}")

    def _move(self, request: Request) -> str:
        from .digits_search import Games, search

        _, image = _note(request)
        first, second = (np.array([claim]) for claim in _claims(request))
        flat = (image.reshape(1, -1) / self.images.brightest).astype(np.float32)
        games, rng = Games(flat, first, second), np.random.default_rng(request.seed)
        before = self._shown(request)[None, :]
        if before.shape[1] >= self.pixels:
            raise ValueError(self._mismatch(before.shape[1] + 1))
        best = search(self.judge, games, before, self.pixels, self.rollouts, rng)
        row, column = divmod(int(best[0]), image.shape[1])
        return f"{row} {column} {image[row, column]}"

    def _verdict(self, request: Request) -> Completion:
        """The likeliest choice, and the logarithm of its probability among the choices."""
        where, choices = self._shown(request), request.view.question.choices
        if len(where) != self.pixels:
            raise ValueError(self._mismatch(len(where)))
        image = np.zeros((1, self.images.raw[0].size), dtype=np.float32)
        values = [parse_pixel(t.text).value for t in request.view.ask.about if t.kind == "pixel"]
        image[0, where] = np.array(values) / self.images.brightest
        logits = self.judge.logits(image, where[None, :])[0][[int(c) for c in choices]]
        best = int(logits.argmax())
        sure = float(logits[best] - np.logaddexp.reduce(logits.astype(np.float64)))
        return Completion(f"Verdict: {best}", token_ids=(best,), logprobs=(min(sure, 0.0),))

    def _shown(self, request: Request) -> NDArray[np.int64]:
        """Where the pixels lie that were shown, in order."""
        columns = self.images.raw.shape[2]
        moves = [parse_pixel(t.text) for t in request.view.ask.about if t.kind == "pixel"]
        return np.array([m.row * columns + m.column for m in moves], dtype=np.int64)

    def _mismatch(self, pixels: int) -> str:
        return (
            f"the judge was trained on {self.pixels} pixels, but {pixels} are shown:"
            " set world.pixels to the protocol's"
        )


def _note(request: Request) -> tuple[str, NDArray[np.uint8]]:
    """What a debater's private note says: its claim, and the image."""
    assert request.view.private is not None  # every task of this world has notes
    claim, *rows = request.view.private.splitlines()
    image = np.array([row.split() for row in rows], dtype=np.uint8)
    return claim.removeprefix("Claim: "), image


def _claims(request: Request) -> tuple[int, int]:
    """What the debaters claimed, as the search has it."""
    from .digits_search import OPEN

    said = {turn.seat: turn.text for turn in request.view.ask.about if turn.kind == "claim"}
    first, second = (said[seat] for seat in SIDES)
    return tuple(OPEN if c.startswith("not ") else int(c) for c in (first, second))  # type: ignore[return-value]


def embedded() -> Images:
    """The 8 x 8 digits of scikit-learn: values from 0 to 16."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    labels = found.target.astype(np.int64)
    return Images(found.images.astype(np.uint8), labels, 16, _drawn(len(labels)))


def idx(folder: Path) -> Images:
    """MNIST's files. Raises BadInput."""
    parts = [part for part in ("train", "t10k") if _file(folder, f"{part}-images-idx3-ubyte")]
    if not parts:
        what = "neither train-images-idx3-ubyte nor t10k-images-idx3-ubyte is there, gzipped or not"
        raise BadInput(f"{folder}: {what}; name a folder with MNIST's IDX files")
    raw = np.concatenate([_array(folder, f"{part}-images-idx3-ubyte") for part in parts])
    labels = np.concatenate([_array(folder, f"{part}-labels-idx1-ubyte") for part in parts])
    if raw.ndim != 3 or labels.shape != raw.shape[:1] or labels.max(initial=0) > 9:
        what = f"images of shape {raw.shape} and labels of shape {labels.shape} do not go together"
        raise BadInput(f"{folder}: {what}")
    tested = len(_array(folder, "t10k-labels-idx1-ubyte")) if len(parts) == 2 else None
    whole = np.arange(len(raw))
    test = _drawn(len(raw)) if tested is None else whole[-tested:]
    return Images(raw, labels.astype(np.int64), 255, test)


def _drawn(n: int) -> NDArray[np.int64]:
    """Numbers of the images that are held out where no split is given."""
    return np.sort(np.random.default_rng(SPLIT_SEED).permutation(n)[: min(HELD_OUT, n // 2)])


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _array(folder: Path, name: str) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes: 0 0 8, the number of axes, their lengths, the values."""
    path = _file(folder, name)
    if path is None:
        raise BadInput(f"{folder}: {name} is not there, gzipped or not")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise BadInput(f"{path}: {error}") from error
    axes = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data[4 : 4 + 4 * axes], ">u4") if len(data) >= 4 + 4 * axes else ()
    if data[:3] != b"\x00\x00\x08" or len(data) != 4 + 4 * axes + int(np.prod(shape, initial=1)):
        raise BadInput(f"{path}: no IDX file of bytes")
    return np.frombuffer(data[4 + 4 * axes :], np.uint8).reshape([int(n) for n in shape])
