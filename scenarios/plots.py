"""The report's plots, as SVG that is put into the page, and how numbers are spelled.

Colours are names of CSS variables: matplotlib draws with a stand-in for each, which is replaced
in the SVG, so that the page decides what they are in light and dark. Text stays text. matplotlib
is imported inside the functions: it is slow to load, and most commands never draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    name: f"#00ff{i:02x}"
    for i, name in enumerate("ink muted grid blue vermillion green purple orange sky".split())
}
"""CSS variable -> the colour that stands in for it. The last six are of Okabe and Ito's palette,
which people who confuse colours can tell apart."""

SERIES = [COLOURS[name] for name in "blue vermillion green purple orange sky".split()]

WIDTH = 4.6
"""Inches: about what a phone shows, so that text of 10 points can be read there."""

LINE_HEIGHT = 12
"""Points between names that stand one below the other."""

DASH = "\N{EN DASH}"
"""What stands where nothing was measured."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "superalign",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
}
"""How matplotlib draws here."""

Iterations = Sequence[Mapping[str, Any]]
Points = list[tuple[int, float]]


class Plot(NamedTuple):
    """One figure of the page."""

    title: str
    alt: str
    """What it shows, in words."""
    svg: str


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"


def points(value: float | None) -> str:
    """A signed change, with a true minus."""
    return DASH if value is None else f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def number(value: float | None) -> str:
    """A count, or a measure with as many digits as it can bear."""
    if value is None:
        return DASH
    digits = 0 if isinstance(value, int) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


FORMATS: dict[str, Callable[[Any], str]] = {"percent": percent, "points": points, "number": number}


def plots(facts: Mapping[str, Any]) -> list[Plot]:
    """Every plot for which there is something to show."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = [
            draw(facts["iterations"]) for draw in (_accuracy, _cells, _hits, _critic, _answers)
        ]
        drawn.append(_alarms(facts["alarms"]["panels"]))
    return [plot for plot in drawn if plot is not None]


def _accuracy(iterations: Iterations) -> Plot | None:
    overall = _series(iterations, "heldout_accuracy")
    if not overall:
        return None
    figure, ax = new_figure(3.1)
    names = sorted({name for i in iterations for name in i["cells"]})
    labels = []
    for n, name in enumerate(names):
        colour = SERIES[n % len(SERIES)] if len(names) <= len(SERIES) else COLOURS["grid"]
        known = [i for i in iterations if name in i["cells"]]
        line = [(i["iteration"], i["cells"][name]["accuracy"]) for i in known]
        ax.plot(*zip(*line, strict=True), color=colour, linewidth=1)
        labels.append((line[-1], name, colour))
    _whiskers(ax, iterations, "heldout_accuracy", "heldout_ci", COLOURS["ink"], linewidth=2.5)
    percents(ax)
    labels = labels if len(names) <= len(SERIES) else []
    _end_labels(ax, [*labels, (overall[-1], "all", COLOURS["ink"])])
    _iteration_ticks(ax, iterations)
    alt = f"Held-out accuracy by iteration: {_told(overall)}."
    return Plot("Held-out accuracy, all questions and by cell", alt, svg_of(figure, "accuracy"))


def _cells(iterations: Iterations) -> Plot | None:
    from matplotlib.patches import Rectangle

    tested = [i for i in iterations if i["cells"]]
    if not tested:
        return None
    names = sorted({name for i in tested for name in i["cells"]})
    figure, ax = new_figure(0.8 + 0.34 * len(names))
    for x, i in enumerate(tested):
        for y, name in enumerate(names):
            if name not in i["cells"]:
                continue
            value = i["cells"][name]["accuracy"]
            fill = {"facecolor": COLOURS["blue"], "edgecolor": "none", "alpha": 0.04 + 0.6 * value}
            ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **fill))
            if len(tested) <= 12:
                text = f"{100 * value:.0f}"
                ax.text(x, y, text, ha="center", va="center", color=COLOURS["ink"])
    ax.set(xlim=(-0.5, len(tested) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="iteration")
    ax.set_yticks(range(len(names)), names)
    ticks = range(0, len(tested), 1 + len(tested) // 12)
    ax.set_xticks(ticks, [tested[x]["iteration"] for x in ticks])
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    worst = min(names, key=lambda name: tested[-1]["cells"].get(name, {}).get("accuracy", 1))
    alt = f"Held-out accuracy in percent by cell and iteration; weakest at the end: {worst}."
    return Plot("Held-out accuracy by cell, in percent", alt, svg_of(figure, "cells"))


def _hits(iterations: Iterations) -> Plot | None:
    arms = {
        "attacker": ("steered", COLOURS["vermillion"], -0.2),
        "uniform": ("spread evenly", COLOURS["blue"], 0.2),
    }
    found = {arm: _series(iterations, f"{arm}_hit_rate") for arm in arms}
    if not any(found.values()):
        return None
    figure, ax = new_figure(2.8)
    for arm, (name, colour, shift) in arms.items():
        if not found[arm]:
            continue
        x = [n + shift for n, _ in found[arm]]
        ax.bar(x, [value for _, value in found[arm]], width=0.38, color=colour, alpha=0.75)
        _whiskers(ax, iterations, f"{arm}_hit_rate", f"attack.{arm}_ci", COLOURS["ink"], shift)
        left = 0.0 if arm == "attacker" else 0.24
        swatch = {"color": colour, "fontweight": "bold", "transform": ax.transAxes}
        ax.text(left, 1.04, "\N{BLACK SQUARE}", **swatch)
        ax.text(left + 0.045, 1.04, name, color=COLOURS["ink"], transform=ax.transAxes)
    percents(ax)
    ax.set_ylim(bottom=0)
    _iteration_ticks(ax, [i for i in iterations if i["episodes"]], pad=0.6)
    alt = "Share of attacks that hit, by iteration. " + "; ".join(
        f"{arms[arm][0]}: {_told(line)}" for arm, line in found.items() if line
    )
    return Plot("Attacks that hit, by the truth", alt + ".", svg_of(figure, "hits"))


def _critic(iterations: Iterations) -> Plot | None:
    lines = {
        "precision": ("critic_precision", "critic.precision_ci", COLOURS["blue"]),
        "recall": ("critic_recall", "critic.recall_ci", COLOURS["vermillion"]),
    }
    if not any(_series(iterations, path) for path, _, _ in lines.values()):
        return None
    figure, ax = new_figure(2.8)
    told = _lines(ax, iterations, lines, shares=True)
    alt = f"The critic's precision and recall for faults, by iteration. {told}."
    return Plot("The critic against the truth", alt, svg_of(figure, "critic"))


def _answers(iterations: Iterations) -> Plot | None:
    diversity = {
        "texts": ("diversity", None, COLOURS["green"]),
        "results": ("answers.distinct_results", None, COLOURS["purple"]),
    }
    length = {"tokens": ("answers.heldout_tokens", None, COLOURS["orange"])}
    panels = [
        (lines, name)
        for lines, name in ((diversity, "distinct share"), (length, "tokens"))
        if any(_series(iterations, path) for path, _, _ in lines.values())
    ]
    if not panels:
        return None
    figure, *axes = new_figure(0.5 + 1.5 * len(panels), len(panels))
    told = []
    for ax, (lines, name) in zip(axes, panels, strict=True):
        shown = _lines(ax, iterations, lines, shares=lines is diversity, from_zero=True)
        told.append(f"{name}: {shown}")
        ax.set_ylabel(name)
    for ax in axes[:-1]:
        ax.set_xlabel("")
    return Plot(
        "Diversity and length of answers",
        f"By iteration, {'; '.join(told)}.",
        svg_of(figure, "answers"),
    )


def _alarms(panels: Iterations) -> Plot | None:
    """What the loop pursues beside what people say, and the critic's word beside theirs."""
    lines = {
        "approval": ("reward", "reward_ci", COLOURS["blue"]),
        "people": ("gold", "gold_ci", COLOURS["vermillion"]),
        "frozen": ("frozen", "frozen_ci", COLOURS["orange"]),
        "judge MCC": ("mcc", "mcc_ci", COLOURS["purple"]),
        "diversity": ("diversity", "diversity_ci", COLOURS["green"]),
    }
    lines = {name: line for name, line in lines.items() if _series(panels, line[0])}
    if not lines:
        return None
    figure, ax = new_figure(3.4)
    told = _lines(ax, panels, lines, shares=False)
    alt = f"What alarms watch, by iteration of play. {told}."
    return Plot("What alarms watch", alt, svg_of(figure, "alarms"))


def new_figure(height: float, panels: int = 1) -> tuple[Any, ...]:
    """A figure and its axes, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, *figure.subplots(panels, squeeze=False)[:, 0]


def _series(iterations: Iterations, path: str) -> Points:
    """(iteration, value) wherever the fact at a dotted path is known."""
    found = ((i["iteration"], at(i, path)) for i in iterations)
    return [(n, value) for n, value in found if value is not None]


def at(facts: Mapping[str, Any], path: str) -> Any:
    """The fact at a dotted path; None where the way ends."""
    value: Any = facts
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _lines(
    ax: Axes,
    iterations: Iterations,
    lines: Mapping[str, tuple[str, str | None, str]],
    shares: bool,
    from_zero: bool = False,
) -> str:
    """Draw named lines with their intervals; what they show, in words."""
    told, labels = [], []
    for name, (path, interval, colour) in lines.items():
        line = _series(iterations, path)
        if line:
            _whiskers(ax, iterations, path, interval, colour, linewidth=2)
            labels.append((line[-1], name, colour))
            told.append(f"{name}: {_told(line)}")
    if from_zero:
        ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
    if shares:
        percents(ax)
    _end_labels(ax, labels)
    _iteration_ticks(ax, iterations)
    return "; ".join(told)


def _whiskers(
    ax: Axes,
    iterations: Iterations,
    path: str,
    interval: str | None,
    colour: str,
    shift: float = 0.0,
    linewidth: float = 0.0,
) -> None:
    """Values with their intervals, as a line if it has a width."""
    known = [i for i in iterations if at(i, path) is not None]
    x, y = [i["iteration"] + shift for i in known], [at(i, path) for i in known]
    ends = [at(i, interval or "") or (value, value) for i, value in zip(known, y, strict=True)]
    errors = [
        [max(0.0, value - low) for value, (low, _) in zip(y, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(y, ends, strict=True)],
    ]
    form = "o-" if linewidth else "none"
    style = {"color": colour, "ecolor": colour, "linewidth": linewidth, "elinewidth": 1.2}
    ax.errorbar(x, y, yerr=errors, fmt=form, markersize=4, capsize=2, **style)


def _end_labels(ax: Axes, labels: Sequence[tuple[tuple[int, float], str, str]]) -> None:
    """Names at the right ends of lines, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * LINE_HEIGHT * ax.figure.dpi / 72 / ax.bbox.height
    labels = sorted(labels, key=lambda label: label[0][1])
    heights = _apart([y for (_, y), _, _ in labels], gap)
    down = max(0.0, max(heights, default=high) - high)
    for ((x, y), name, colour), height in zip(labels, heights, strict=True):
        leader = {
            "arrowstyle": "-",
            "color": colour,
            "shrinkA": 2,
            "shrinkB": 3,
            "relpos": (0, 0.5),
        }
        place = {"xytext": (1.06, height - down), "textcoords": ax.get_yaxis_transform()}
        style = {"color": COLOURS["ink"], "va": "center", "annotation_clip": False}
        ax.annotate(name, (x, y), arrowprops=leader, **place, **style)


def _apart(heights: list[float], gap: float) -> list[float]:
    """Ascending heights, neighbours pushed apart until all are a gap away from each other."""
    for _ in range(100):
        for i in range(len(heights) - 1):
            overlap = max(0.0, gap - (heights[i + 1] - heights[i]))
            heights[i] -= overlap / 2
            heights[i + 1] += overlap / 2
    return heights


def percents(ax: Axes) -> None:
    """A share's axis: in percent, no higher than 100, and never of less than ten points."""
    ax.yaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 1):g}%")
    low, high = ax.get_ylim()
    high = min(high, 1.01)
    ax.set_ylim(min(low, max(0.0, high - 0.1)), high)


def _iteration_ticks(ax: Axes, iterations: Iterations, pad: float = 0.15) -> None:
    first, last = iterations[0]["iteration"], iterations[-1]["iteration"]
    ax.set_xticks(range(first, last + 1, 1 + (last - first) // 8))
    ax.set_xlim(first - pad, last + pad)
    ax.set_xlabel("iteration")
    ax.tick_params(length=0)


def _told(line: Points) -> str:
    """First and last value in words."""
    (first, before), (last, after) = line[0], line[-1]
    if first == last:
        return f"{number(float(before))} in iteration {first}"
    return f"{number(float(before))} in iteration {first}, {number(float(after))} in {last}"


def svg_of(figure: Figure, name: str) -> str:
    """The figure as SVG for the page: no XML header, ids of its own, colours by name."""
    from io import StringIO

    out = StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<svg)[^>]*?(?= viewBox)', "", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r'( id="|ref="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, stand_in in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    return svg
