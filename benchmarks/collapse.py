"""What is left after models learn from models, in toys whose losses are known.

    python benchmarks/collapse.py [--chains 200] [--seed 0] [--json]

cycles     thirty things, all as frequent; each generation learns the shares of its data and draws
           20 samples. Simpson's diversity, mean over chains; of `full` it must be (1 - 1/20)^t
gaussian   a Gaussian fitted anew to 20 samples of the one before, with sampling bias 1 and 0.9:
           mean log variance, and what it must be; variance; samples below the first 5th percentile

Targets: within four standard errors of what must be.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
from scipy.stats import norm

from superalign.learners import collapse

KINDS, SAMPLES, AT = 30, 20, (0, 5, 20, 60)


def cycles(chains: int, seed: int) -> list[dict[str, Any]]:
    """Diversity by generation of each data cycle."""
    even, rows = np.full(KINDS, 1 / KINDS), []
    for cycle in get_args(collapse.Cycle):
        runs = [collapse.generations(cycle, even, SAMPLES, AT[-1], seed + i) for i in range(chains)]
        found = collapse.simpson(np.array(runs))[:, AT]
        rows.append({"cycle": cycle, "left": found.mean(0).tolist(), "error": _error(found)})
    known = (1 - 1 / KINDS) * (1 - 1 / SAMPLES) ** np.array(AT)
    return [{**rows[0], "known": known.tolist()}, *rows[1:]]


def gaussian(bias: float, chains: int, seed: int) -> dict[str, Any]:
    """Log variance by generation, and the tail."""
    means, variances = collapse.gaussian_generations(SAMPLES, AT[-1], chains, bias, seed)
    found, sd = np.log(variances[:, AT]), np.sqrt(variances[:, AT])
    tail = norm.cdf((norm.ppf(0.05) - means[:, AT]) / sd)
    return {
        "bias": bias,
        "log_variance": found.mean(0).tolist(),
        "error": _error(found),
        "known": (collapse.shrinking(SAMPLES, bias) * np.array(AT)).tolist(),
        "variance": variances[:, AT].mean(0).tolist(),
        "tail": tail.mean(0).tolist(),
    }


def _error(found: np.ndarray) -> list[float]:
    return (found.std(0, ddof=1) / np.sqrt(len(found))).tolist()


def missed(rows: list[dict[str, Any]], key: str) -> list[str]:
    """Generations that lie too far from what must be."""
    return [
        f"{key} {row.get('cycle', row.get('bias'))} at {t}"
        for row in rows
        if "known" in row
        for t, value, known, error in zip(AT, row[key], row["known"], row["error"], strict=True)
        if abs(value - known) > 4 * error + 1e-9
    ]


def show(facts: dict[str, Any]) -> None:
    def line(name: str, values: list[float]) -> None:
        print(f"  {name:24}" + "".join(f"{value:9.3f}" for value in values))

    print(f"cycles: Simpson's diversity at generation {AT}, {SAMPLES} samples each")
    for row in facts["cycles"]:
        line(row["cycle"], row["left"])
        if "known" in row:
            line("  must be", row["known"])
    print(f"gaussian at generation {AT}, {SAMPLES} samples each")
    for row in facts["gaussian"]:
        line(f"log variance, bias {row['bias']}", row["log_variance"])
        line("  must be", row["known"])
        line("variance", row["variance"])
        line("below 5th percentile", row["tail"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    facts: dict[str, Any] = {
        "cycles": cycles(args.chains, args.seed),
        "gaussian": [gaussian(bias, 10 * args.chains, args.seed) for bias in (1.0, 0.9)],
    }
    facts["missed"] = missed(facts["cycles"], "left") + missed(facts["gaussian"], "log_variance")
    facts["versions"] = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("superalign", "numpy", "scipy")},
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
        print("targets missed: " + (", ".join(facts["missed"]) or "none"))
        print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    sys.exit(1 if facts["missed"] else 0)


if __name__ == "__main__":
    main()
