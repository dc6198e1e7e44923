"""What a run found out, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plots import percent, points


def headline(facts: Mapping[str, Any]) -> str:
    """What happened, in one sentence that is true whichever way it went."""
    tested = [i for i in facts["iterations"] if i["heldout_accuracy"] is not None]
    if not tested:
        played = sum(i["episodes"] for i in facts["iterations"])
        return f"{played:,} episodes were played; nothing was tested on held-out questions."
    first, last, gain = tested[0], tested[-1], facts["gain"]
    start = percent(first["heldout_accuracy"])
    if gain is None:
        low, high = map(percent, first["heldout_ci"])
        return (
            f"Held-out accuracy before any update is {start} (95% interval {low} to {high}); "
            "no update has been tested."
        )
    low, high = gain["ci"]
    what = "rose" if low > 0 else "fell" if high < 0 else "did not change measurably"
    many = "one update" if last["iteration"] == 1 else f"{last['iteration']} updates"
    return (
        f"Held-out accuracy {what}, from {start} to {percent(last['heldout_accuracy'])} after "
        f"{many}: {points(gain['points'])} points (95% interval {points(low)} to {points(high)}; "
        f"{gain['n']:,} questions, paired)."
    )
