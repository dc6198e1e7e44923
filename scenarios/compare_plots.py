"""The plots of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .plots import COLOURS, SERIES, STYLE, Plot, new_figure, number, percent, percents, svg_of

Arms = Sequence[Mapping[str, Any]]

LONGEST = 34
"""Letters of an arm's name that fit beside a plot."""


def compare_plots(facts: Mapping[str, Any]) -> list[Plot]:
    """Every plot for which there is something to show."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = [
            _bars(facts["arms"], "accuracy", "Accuracy", shares=True),
            _bars(
                facts["arms"], "asd", "Agent score difference (above 0, truth pays)", shares=False
            ),
            _calibration(facts["arms"]),
            _cost(facts["arms"]),
        ]
    return [plot for plot in drawn if plot is not None]


def _bars(arms: Arms, metric: str, title: str, shares: bool) -> Plot | None:
    """One value of every arm with its interval, one below the other."""
    shown = [arm for arm in arms if arm[metric] is not None]
    if not shown:
        return None
    figure, ax = new_figure(0.9 + 0.34 * len(shown))
    for height, arm in enumerate(reversed(shown)):
        low, high = arm[f"{metric}_ci"] or (arm[metric], arm[metric])
        errors = [[max(0.0, arm[metric] - low)], [max(0.0, high - arm[metric])]]
        ax.errorbar(
            [arm[metric]], [height], xerr=errors, fmt="o", markersize=5, capsize=2, color=SERIES[0]
        )
    ax.set_yticks(range(len(shown)), [_short(arm["name"]) for arm in reversed(shown)])
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(length=0)
    if shares:
        ax.xaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 1):g}%")
    else:
        ax.axvline(0, color=COLOURS["muted"], linewidth=1)
    spell = percent if shares else number
    told = "; ".join(f"{arm['name']}: {spell(arm[metric])}" for arm in shown)
    return Plot(title, told, svg_of(figure, metric))


def _calibration(arms: Arms) -> Plot | None:
    """What was believed against how often it came true."""
    shown = [arm for arm in arms if arm["calibration"]][: len(SERIES)]
    if not shown:
        return None
    figure, ax = new_figure(3.6)
    ax.plot([0, 1], [0, 1], color=COLOURS["grid"], linewidth=1)
    for arm, colour in zip(shown, SERIES, strict=False):
        x = [b["believed"] for b in arm["calibration"]]
        y = [b["came_true"] for b in arm["calibration"]]
        ax.plot(x, y, "o-", color=colour, markersize=4, label=_short(arm["name"]))
    ax.set_xlabel("probability given to what was decided")
    ax.set_ylabel("share that was right")
    ax.legend(frameon=False, fontsize=9)
    told = "; ".join(f"{arm['name']}: expected error {number(arm['ece'])}" for arm in shown)
    return Plot("Calibration", told, svg_of(figure, "calibration"))


def _cost(arms: Arms) -> Plot | None:
    """Accuracy against the calls that it took."""
    shown = [arm for arm in arms if arm["accuracy"] is not None and arm["calls"] is not None]
    if len(shown) < 2:
        return None
    figure, ax = new_figure(3.2)
    for i, arm in enumerate(shown):
        marker = "s" if arm["derived"] else "o"
        colour = SERIES[i % len(SERIES)]
        ax.plot([arm["calls"]], [arm["accuracy"]], marker, color=colour, label=_short(arm["name"]))
    ax.set_xlabel("calls an episode")
    percents(ax)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    told = [f"{a['name']}: {percent(a['accuracy'])} at {number(a['calls'])} calls" for a in shown]
    return Plot("Accuracy and cost", "; ".join(told), svg_of(figure, "cost"))


def _short(name: str) -> str:
    """Without its middle: what tells arms apart stands at either end."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
