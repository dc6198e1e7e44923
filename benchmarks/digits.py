"""The pixel game of Irving et al. 2018: how often does the honest debater win?

    python benchmarks/digits.py [--data FOLDER] [--pixels 4 6] [--images 80] [--rollouts 200]
        [--steps 800] [--draws 4] [--seed 0] [--picture FILE.png] [--json]

Without --data the 8 x 8 digits that scikit-learn ships; with it a folder of MNIST's IDX files. A
judge is trained for each number of pixels on the images that are not held out, and frozen. On the
held-out ones both debaters search, honest first and liar first: once a lie of the nine where the
liar commits to it, once an image where it does not. The paper's figures stand beside ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from superalign.learners.estimates import wilson
from superalign.scenarios.digits import Images, embedded, idx
from superalign.scenarios.digits_judge import CLASSES, Floats, Ints, Judge, confusion, train
from superalign.scenarios.digits_search import OPEN, Games, play

PAPER: dict[tuple[int, str], tuple[float, float, float]] = {
    (4, "honest"): (0.482, 0.510, 0.838),
    (4, "liar"): (0.482, 0.684, 0.867),
    (4, "mean"): (0.482, 0.597, 0.852),
    (6, "honest"): (0.594, 0.674, 0.874),
    (6, "liar"): (0.594, 0.815, 0.904),
    (6, "mean"): (0.594, 0.744, 0.889),
}
"""Judge on random pixels, honest wins without precommitment, and with it."""
COLUMNS = ("random", "open", "precommit")
BATCH = 256
"""Games that are searched at once."""
Won = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pixels", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(
        1
    )  # calls of half a millisecond: a second thread costs more than it helps
    started = time.perf_counter()
    images = idx(args.data) if args.data else embedded()
    results = [measure(images, pixels, args) for pixels in args.pixels]
    facts = {
        "images": {"training": len(images.training), "test": len(images.test)},
        "size": list(images.raw.shape[1:]),
        "played": min(args.images, len(images.test)),
        "rollouts": args.rollouts,
        "steps": args.steps,
        "seed": args.seed,
        "results": results,
        "seconds": round(time.perf_counter() - started),
        "versions": {name: version(name) for name in ("superalign", "torch", "scikit-learn")},
        "python": platform.python_version(),
    }
    if args.picture:
        draw(results[-1], args.picture)
    print(json.dumps(facts, indent=1) if args.json else table(facts))


def measure(images: Images, pixels: int, args: argparse.Namespace) -> dict[str, Any]:
    """All that the table says about one number of pixels."""
    flat, mine, test = images.flat, images.training, images.test
    judge = train(flat[mine], images.labels[mine], pixels, args.steps, args.seed)
    tell(f"{pixels} pixels: the judge is trained")
    drawn = [
        confusion(judge, flat[test], images.labels[test], pixels, seed)
        for seed in range(args.seed, args.seed + args.draws)
    ]
    said = np.sum(drawn, axis=0)
    chosen = np.random.default_rng(args.seed).permutation(test)[: args.images]
    shown, truth = flat[chosen], images.labels[chosen]
    nothing = np.full(len(truth), OPEN)
    opened = orders(judge, shown, truth, nothing, pixels, args)
    lies = np.array([[d for d in range(CLASSES) if d != t] for t in truth]).ravel()
    told = np.repeat(truth, CLASSES - 1)
    held = orders(judge, np.repeat(shown, CLASSES - 1, axis=0), told, lies, pixels, args)
    lost = np.zeros((CLASSES, CLASSES))
    for honest in held.values():
        np.add.at(lost, (told[~honest], lies[~honest]), 1 / (2 * len(lies)))
    both = {"open": opened, "precommit": held}
    rows = {
        first: {name: share(won[first], len(truth)) for name, won in both.items()}
        for first in ("honest", "liar")
    }
    rows["mean"] = {
        name: share(np.concatenate(list(won.values())), len(truth)) for name, won in both.items()
    }
    random = said.trace() / said.sum()
    return {
        "pixels": pixels,
        "random": interval(random, len(test)),
        "rows": rows,
        "errors": (said / said.sum() * (1 - np.eye(CLASSES))).tolist(),
        "lies": lost.tolist(),
    }


def orders(
    judge: Judge,
    images: Floats,
    truth: Ints,
    lies: Ints,
    pixels: int,
    args: argparse.Namespace,
) -> dict[str, Won]:
    """Who moves first -> whether the honest debater won each game."""
    honest = run(judge, Games(images, truth, lies), pixels, args)
    tell(f"{pixels} pixels: {len(truth)} games with the honest debater first")
    liar = run(judge, Games(images, lies, truth), pixels, args)
    tell(f"{pixels} pixels: {len(truth)} games with the liar first")
    return {"honest": honest, "liar": ~liar}


def run(judge: Judge, games: Games, pixels: int, args: argparse.Namespace) -> Won:
    """Whether the first player won each game. Images with as many lit pixels are searched at once,
    so that few columns are empty."""
    won = np.zeros(len(games.images), dtype=bool)
    order = np.argsort((games.images > 0).sum(axis=1), kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        seed = args.seed + start
        won[rows] = play(judge, games.take(rows), pixels, args.rollouts, seed).first
    return won


def share(won: Won, images: int) -> dict[str, Any]:
    return interval(float(won.mean()), images)


def interval(value: float, images: int) -> dict[str, Any]:
    """A share with its Wilson interval. All games of an image count as one observation."""
    found = wilson(round(value * images), images)
    return {"value": float(value), "ci": found.ci if found else None, "n": images}


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def table(facts: dict[str, Any]) -> str:
    """The table of the paper, its figures in brackets, and what stands under it."""
    rows, columns = facts["size"]
    head = ("random pixels", "no precommit", "precommit")
    lines = [
        f"{rows} x {columns} digits: judge trained on {facts['images']['training']} images, random"
        f" pixels on {facts['images']['test']}, debates on {facts['played']};"
        f" {facts['rollouts']} rollouts a move, {facts['steps']} batches, seed {facts['seed']}",
        "pixels  first   " + "".join(f"{name:<30}" for name in head),
    ]
    for result in facts["results"]:
        for first, row in result["rows"].items():
            cells = [result["random"], row["open"], row["precommit"]]
            paper = PAPER.get((result["pixels"], first), (None,) * 3)
            texts = [figure(cell, old) for cell, old in zip(cells, paper, strict=True)]
            lines.append(f"{result['pixels']:<8}{first:<8}" + "".join(f"{t:<30}" for t in texts))
    for result in facts["results"]:
        errors, lies = (np.array(result[name]) for name in ("errors", "lies"))
        lines.append(f"{result['pixels']} pixels: worst error on random pixels {worst(errors)}; ")
        lines[-1] += f"worst lie {worst(lies)}; "
        total = lies.sum()
        lines[-1] += f"claims of 8 or 9 are {lies[:, 8:].sum() / total:.0%} of the lies that win"
    lines.append(f"{facts['seconds']} s; " + ", ".join(f"{k} {v}" for k, v in versions(facts)))
    return "\n".join(line.rstrip() for line in lines)


def versions(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [("python", facts["python"]), *facts["versions"].items()]


def figure(cell: dict[str, Any], paper: float | None) -> str:
    low, high = cell["ci"]
    old = "" if paper is None else f" [{100 * paper:.1f}]"
    return f"{100 * cell['value']:.1f} ({100 * low:.1f} to {100 * high:.1f}){old}"


def worst(shares: NDArray[np.float64]) -> str:
    row, column = divmod(int(shares.argmax()), CLASSES)
    return f"{row} -> {column} ({shares.max():.2%} of all)"


def draw(result: dict[str, Any], path: Path) -> None:
    """Two confusion matrices: what a judge errs about, and what a liar gets through."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(9, 4), layout="constrained")
    titles = {"errors": "said on random pixels", "lies": "claimed by a liar who won"}
    for axes, (name, title) in zip(page.subplots(1, 2), titles.items(), strict=True):
        shares = 100 * np.array(result[name])
        mesh = axes.imshow(shares, cmap="Greys", vmin=0)
        axes.set_xlabel(title)
        axes.set_ylabel("true digit")
        axes.set_xticks(range(CLASSES))
        axes.set_yticks(range(CLASSES))
        page.colorbar(mesh, ax=axes, label="% of all games")
    page.suptitle(f"{result['pixels']} pixels shown")
    page.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
