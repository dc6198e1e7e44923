"""Prompts that begin like one that was read: found at their longest, forgotten oldest first."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents.prefixes import SHORTEST, Prefixes, common

HEAD = list(range(100, 100 + SHORTEST))
tails = st.lists(st.integers(0, 2), min_size=1, max_size=6)


def states(tokens: list[int]) -> list[torch.Tensor]:
    """What a row that read these would leave: here the tokens themselves."""
    return [torch.tensor(tokens, dtype=torch.float32)[None, :, None]]


@given(st.lists(tails, max_size=12), tails)
def test_the_longest_beginning_is_found(kept: list[list[int]], asked: list[int]) -> None:
    prefixes = Prefixes()
    for tail in kept:
        prefixes.put(HEAD + tail, states(HEAD + tail))
    shared, found = prefixes.find(HEAD + asked)
    assert shared == max((common(HEAD + asked, HEAD + tail) for tail in kept), default=0)
    if shared:
        assert found[0][0, :shared, 0].tolist() == (HEAD + asked)[:shared]


@given(st.lists(tails, max_size=30))
def test_memory_is_bounded_and_the_latest_stays(kept: list[list[int]]) -> None:
    most = 3 * 4 * (SHORTEST + 6)
    prefixes = Prefixes(most)
    for tail in kept:
        prefixes.put(HEAD + tail, states(HEAD + tail))
        assert prefixes.size <= most
        assert prefixes.find(HEAD + tail)[0] == SHORTEST + len(tail)


def test_a_short_beginning_is_not_worth_it() -> None:
    prefixes = Prefixes()
    prefixes.put(HEAD, states(HEAD))
    assert prefixes.find([*HEAD[:-1], 1, 2, 3]) == (0, [])
    assert prefixes.find([]) == (0, [])
