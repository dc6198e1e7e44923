"""How much samples differ: in words, in letters, in what they answer, in meaning.

Guo et al. 2024, arXiv 2311.09807, on languages that shrink as models learn from themselves; edit
distance as in Briesch et al. 2023, arXiv 2311.16822.

    level              samples of several models cut to equal lengths and drawn to equal counts
    distinct_n         distinct n-grams / n-grams
    type_token_ratio   distinct words / words within a text, mean over texts
    self_bleu          BLEU of each text against all others, mean over texts; 1 - it is diversity
    edit_diversity     Levenshtein distance / letters of the longer text, mean over pairs
    semantic_diversity 1 - mean cosine over pairs, of a given embedding
    effective_number   exp(-sum p log p) of the shares of equal samples: as many as if all were even
    pass_at_k          chance that one of k samples is right: 1 - C(n - c, k) / C(n, k)

Every one of them falls or rises with length or with the number of samples, so compare only what
`level` has made alike.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from superalign.store.errors import BadInput

from .estimates import Floats

Tokens = Sequence[str]

KEPT = 0.9
"""Share of every group's samples that the common length keeps."""

ALMOST_NONE = 0.1
"""Matches that an n-gram length without any counts as: smoothing 1 of Chen and Cherry 2014."""

WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and marks of a text, in order."""
    return WORD.findall(text)


def level(
    groups: Sequence[Sequence[str]], length: int | None = None, seed: int = 0
) -> list[list[Tokens]]:
    """Each group's texts as words, all of one length, as many of each group.

    Shorter texts are left out. By default the length is the longest that 90% of every group's
    texts reach: shorter loses words, longer loses texts.
    """
    split = [[words(text) for text in group] for group in groups]
    if any(not group for group in split):
        raise BadInput("groups: one holds no text; leave it out")
    if length is None:
        length = min(sorted(map(len, group))[int((1 - KEPT) * len(group))] for group in split)
    whole = [[text[:length] for text in group if len(text) >= length > 0] for group in split]
    count, rng = min(map(len, whole)), np.random.default_rng(seed)
    if not count:
        raise BadInput(f"length: some group holds no text of {length} words; give a smaller one")
    drawn = [np.sort(rng.permutation(len(group))[:count]) for group in whole]
    return [[group[i] for i in places] for group, places in zip(whole, drawn, strict=True)]


def _grams(text: Tokens, n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[Tokens], n: int) -> float | None:
    """Distinct n-grams / n-grams, over all texts; None where no text has n words."""
    found = sum((_grams(text, n) for text in texts), Counter())
    return len(found) / found.total() if found else None


def type_token_ratio(texts: Sequence[Tokens]) -> float | None:
    """Of each text its distinct words / words, in the mean; over all texts it is `distinct_n` 1."""
    ratios = [len(set(text)) / len(text) for text in texts if text]
    return sum(ratios) / len(ratios) if ratios else None


def self_bleu(texts: Sequence[Tokens], most: int = 4) -> float | None:
    """BLEU of each text against all others, n-grams of 1 to `most` words weighing alike; the mean.

    Zhu et al. 2018, arXiv 1802.01886. For texts of one length, where no brevity is to be punished.
    """
    if len(texts) < 2 or len({len(text) for text in texts}) > 1 or len(texts[0]) < most:
        raise BadInput(f"texts: need two or more, of one length of {most} words or more: see level")
    logs = np.zeros(len(texts))
    for n in range(1, most + 1):
        counts = [_grams(text, n) for text in texts]
        top: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
        for count in counts:  # an n-gram's two largest counts: one of them is of another text
            for gram, times in count.items():
                top[gram] = sorted([*top[gram], times])[1:]
        for i, count in enumerate(counts):
            # the most that any other text has: the second largest, where this one's is the largest
            hits = sum(min(times, top[gram][times < top[gram][1]]) for gram, times in count.items())
            logs[i] += math.log((hits or ALMOST_NONE) / count.total()) / most
    return float(np.exp(logs).mean())


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein's: the least insertions, deletions and exchanges that make `b` of `a`."""
    if a == b:
        return 0
    names = {name: i for i, name in enumerate(dict.fromkeys([*a, *b]))}
    first, second = (np.array([names[x] for x in text], dtype=int) for text in (a, b))
    places = np.arange(len(second) + 1)
    row = places.copy()
    for i, letter in enumerate(first, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (second != letter))
        # insertions: the least over all places to the left, of value + distance
        row = np.minimum.accumulate(np.concatenate([[i], best]) - places) + places
    return int(row[-1])


def edit_diversity(texts: Sequence[str], pairs: int = 500, seed: int = 0) -> float | None:
    """Mean edit distance / letters of the longer, over all pairs or so many drawn ones."""
    n = len(texts)
    if n < 2:
        return None
    all_pairs = n * (n - 1) // 2
    drawn = np.random.default_rng(seed).choice(all_pairs, min(pairs, all_pairs), replace=False)
    rows, columns = (places.tolist() for places in np.triu_indices(n, 1))
    couples = ((texts[rows[i]], texts[columns[i]]) for i in drawn)
    parts = [edit_distance(a, b) / max(len(a), len(b), 1) for a, b in couples]
    return sum(parts) / len(parts)


def semantic_diversity(
    texts: Sequence[str], embed: Callable[[Sequence[str]], NDArray[np.floating]]
) -> float | None:
    """1 - mean cosine over pairs of embeddings, which `embed` gives one row each."""
    n = len(texts)
    if n < 2:
        return None
    vectors = np.asarray(embed(texts), dtype=float)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if vectors.shape[0] != n or not lengths.all():
        raise BadInput(f"embed: gave {vectors.shape} for {n} texts; one row each, none of zeros")
    total = (vectors / lengths).sum(axis=0)
    return float(1 - (total @ total - n) / (n * (n - 1)))


def effective_number(samples: Sequence[Hashable]) -> float | None:
    """exp of the entropy of what was drawn: Hill's number of order 1. Between 1 and the samples."""
    if not samples:
        return None
    p = np.array(list(Counter(samples).values())) / len(samples)
    return float(np.exp(-(p * np.log(p)).sum()))


def distinct_answers(items: Sequence[Sequence[Hashable]]) -> Floats:
    """Of each item its distinct answers / samples. Compare only items with as many samples."""
    return np.array([len(set(samples)) / len(samples) for samples in items if samples])


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that one of `k` samples is right, unbiased, from `n` of which so many were.

    Chen et al. 2021, arXiv 2107.03374.
    """
    if not 0 < k <= n or not 0 <= right <= n:
        raise BadInput(f"k: {k} of {n} samples, {right} right; draw at least k samples")
    return 1 - math.comb(n - right, k) / math.comb(n, k)
