"""Plots that stand alone as files: accuracy against KL, and versions against versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .plots import new_figure, percents

SERIES = "#0072b2 #d55e00 #009e73 #b3588f #e69f00 #56b4e9".split()
"""Okabe and Ito's palette, as in the report on white."""

MARKS = "osD^vP"

STYLE: Any = {
    "svg.hashsalt": "superalign",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#d5d9de",
}


def draw_sweep(facts: Mapping[str, Any], path: Path) -> None:
    """Accuracy against KL, a line a method, from the base on; whiskers are 95% intervals."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, ax = new_figure(3.4)
        base = facts["base_accuracy"]
        ax.axhline(base, color="#565e68", linewidth=1, linestyle=":")
        methods = list(dict.fromkeys(arm["method"] for arm in facts["arms"]))
        for n, method in enumerate(methods):
            arms = [arm for arm in facts["arms"] if arm["method"] == method]
            x, y = [arm["kl"] for arm in arms], [arm["accuracy"] for arm in arms]
            colour, mark = SERIES[n % len(SERIES)], MARKS[n % len(MARKS)]
            ax.plot([0, *x], [base, *y], color=colour, linewidth=1)
            bars = {"xerr": _errors(arms, "kl"), "yerr": _errors(arms, "accuracy")}
            style = {"color": colour, "fmt": mark, "markersize": 5, "elinewidth": 1}
            ax.errorbar(x, y, **bars, **style, label=method)
        percents(ax)
        ax.set(xlabel="KL to the base, nats a reply", ylabel="held-out accuracy")
        ax.grid(True)
        ax.legend(frameon=False, fontsize=9)
        figure.savefig(path)


def _errors(arms: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    return [
        [max(0.0, arm[name] - arm[f"{name}_ci"][0]) for arm in arms],
        [max(0.0, arm[f"{name}_ci"][1] - arm[name]) for arm in arms],
    ]


def draw_matrix(facts: Mapping[str, Any], path: Path) -> None:
    """Versions against versions: the column seat's mean reward as colour and number."""
    import matplotlib
    from matplotlib.patches import Rectangle

    rows, columns = facts["rows"]["versions"], facts["columns"]["versions"]
    known = [cell["reward"] for cell in facts["cells"] if cell["reward"] is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    with matplotlib.rc_context(STYLE):
        figure, ax = new_figure(1.2 + 0.36 * len(rows))
        for cell in facts["cells"]:
            if cell["reward"] is None:
                continue
            x, y = columns.index(cell["column"]), rows.index(cell["row"])
            share = (cell["reward"] - low) / (high - low) if high > low else 0.5
            fill = {"facecolor": SERIES[0], "edgecolor": "none", "alpha": 0.05 + 0.6 * share}
            ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **fill))
            ax.text(x, y, f"{cell['reward']:.2f}", ha="center", va="center", fontsize=9)
        ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
        ax.set_yticks(range(len(rows)), rows)
        ax.set_title(f"mean reward of {facts['columns']['seat']}", fontsize=10, loc="left")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        figure.savefig(path)
