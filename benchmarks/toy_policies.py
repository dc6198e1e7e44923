"""What each preference loss converges to, against its theory: policies over K replies.

    python benchmarks/toy_policies.py [--tasks 20] [--seed 0] [--json]

Gradients are exact, so nothing here is luck but the tasks. Four tables; `kto`, whose loss is no
function that could be minimised, takes 2,000 steps of Adam, and is in the first one only.

free        a policy that can be anything; KL both ways to pi* = pi_ref exp(r / beta) / Z, and to
            where the method's own theory puts it
flips       the same from labels of which one in five is flipped
restricted  a Gaussian over replies in a row whose pi* has two modes, the best of three starts
certain     two or three replies, the better always preferred: log-ratio gap and the worst one's
            probability, after so many steps

Targets: `free` is within 1e-6 of theory; `rdpo` too under flips; the reverse direction (ppo,
exo_rw) takes one mode of two, the forward one (dpo_rw) and dpo spread over both.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from superalign.learners import toy

BETA, EPS, REPLIES = 0.5, 0.2, 6
FLIPPED: dict[str, toy.Objective] = {
    "dpo, unaware": toy.dpo,
    "cdpo": toy.cdpo(EPS),
    "rdpo": toy.rdpo(EPS),
    "exo_pref, eps 0.2": toy.exo_pref(EPS),
}
STARTS = ((-2.0, 1.0), (2.0, 1.0), (0.0, 3.0))
TAU = 0.1
WITHOUT = ("kto", "dpo, unaware", "cdpo", "exo_pref, eps 0.2")
"""Methods whose theory has no optimum in closed form over all these pairs."""


def drawn(seed: int, flips: float = 0.0) -> toy.Task:
    """A reference and rewards of six replies."""
    rng = torch.Generator().manual_seed(seed)
    ref_K, rewards_K = torch.randn(2, REPLIES, generator=rng, dtype=torch.float64)
    return toy.task(ref_K.softmax(-1), rewards_K, BETA, flips=flips)


def star(task: toy.Task) -> Tensor:
    return toy.optimum(task.ref_K, task.rewards_K, task.beta)


def kls(logp_K: Tensor, star_K: Tensor) -> dict[str, float]:
    """Both ways between a policy and pi*."""
    return {"reverse": toy.kl(logp_K, star_K), "forward": toy.kl(star_K, logp_K)}


def free(tasks: list[toy.Task], name: str, objective: toy.Objective) -> dict[str, Any]:
    """The largest KLs over the tasks."""
    found = []
    for task in tasks:
        policy = toy.Tabular(task)
        if name == "kto":
            toy.descend(task, policy, objective, 2000)
        else:
            toy.fit(task, policy, objective)
        logp_K = policy.logp_K().detach()
        values_K = toy.preferred(task) if name == "ipo" else task.rewards_K
        theory = toy.kl(logp_K, toy.optimum(task.ref_K, values_K, BETA))
        found.append({**kls(logp_K, star(task)), "theory": theory})
    row = {key: max(each[key] for each in found) for key in found[0]}
    return {"method": name, **row, **({"theory": None} if name in WITHOUT else {})}


def restricted(name: str, objective: toy.Objective) -> dict[str, Any]:
    """Where the Gaussian lies that minimises the loss."""
    task, places_K = toy.bimodal()
    starts = [toy.Unimodal(places_K, mean, sd) for mean, sd in STARTS]
    logp_K = toy.best_of(task, starts, objective)
    mean, sd = moments(logp_K, places_K)
    return {"method": name, **kls(logp_K, star(task)), "mean": mean, "sd": sd}


def moments(logp_K: Tensor, places_K: Tensor) -> tuple[float, float]:
    mean = (logp_K.exp() * places_K).sum()
    return mean.item(), (logp_K.exp() * (places_K - mean) ** 2).sum().sqrt().item()


def certain(replies: int, name: str, objective: toy.Objective, steps: int) -> dict[str, Any]:
    """Deterministic labels: the earlier reply is always the better, a reply ties with itself."""
    ref_K, better_K_K = torch.ones(replies), torch.ones(replies, replies).triu(1)
    better_K_K += 0.5 * torch.eye(replies)
    task = toy.task(ref_K, torch.zeros(replies), TAU, better_K_K)
    policy = toy.Tabular(task)
    toy.descend(task, policy, objective, steps)
    logp_K = policy.logp_K().detach()
    gap, worst = (logp_K[0] - logp_K[1]).item(), logp_K[-1].exp().item()
    return {"replies": replies, "method": name, "steps": steps, "gap": gap, "worst": worst}


def measure(tasks: int, seed: int) -> dict[str, Any]:
    clean = [drawn(seed + i) for i in range(tasks)]
    noisy = [drawn(seed + i, EPS) for i in range(tasks)]
    bimodal, places_K = toy.bimodal()
    mean, sd = moments(star(bimodal), places_K)
    target = {"method": "pi*", "reverse": 0.0, "forward": 0.0, "mean": mean, "sd": sd}
    sure = {"dpo": toy.dpo, "ipo": toy.ipo, "exo_pref, eps 0.001": toy.exo_pref(1e-3)}
    return {
        "free": [free(clean, *method) for method in toy.OBJECTIVES.items()],
        "flips": [free(noisy, *method) for method in FLIPPED.items()],
        "restricted": [
            target,
            *(restricted(*method) for method in toy.OBJECTIVES.items() if method[0] != "kto"),
        ],
        "certain": [
            certain(replies, *method, steps)
            for replies in (2, 3)
            for method in sure.items()
            for steps in (500, 5000)
        ],
    }


def missed(facts: dict[str, Any]) -> list[str]:
    """Targets that were not met."""
    theory = {row["method"]: row["theory"] for row in facts["free"] + facts["flips"][2:3]}
    lie = {row["method"]: row for row in facts["restricted"]}
    off = [name for name, kl in theory.items() if kl is not None and abs(kl) > 1e-6]
    narrow = [name for name in ("ppo", "exo_rw") if lie[name]["sd"] > 1]
    return off + narrow + [name for name in ("dpo_rw", "dpo") if lie[name]["sd"] < 1]


def show(facts: dict[str, Any], tasks: int) -> None:
    def number(value: float | None) -> str:
        return f"{'none':>10}" if value is None else f"{max(value, 0):10.1e}"

    for name, what in (("free", "clean labels"), ("flips", "one label in five is flipped")):
        print(f"{name}: {what}; the largest of {tasks} tasks")
        print(f"  {'':20}KL(pi||pi*) KL(pi*||pi) to its theory")
        for row in facts[name]:
            values = "  ".join(number(row[key]) for key in ("reverse", "forward", "theory"))
            print(f"  {row['method']:20}{values}")
    print("restricted: the best Gaussian over replies in a row")
    print(f"  {'':20}KL(pi||pi*) KL(pi*||pi)     mean    sd")
    for row in facts["restricted"]:
        values = (
            f"{row['reverse']:11.3f} {row['forward']:11.3f} {row['mean']:8.3f} {row['sd']:5.3f}"
        )
        print(f"  {row['method']:20}{values}")
    print(f"certain: beta = tau = {TAU}; 1 / (2 tau) = {1 / (2 * TAU):g}")
    print(f"  replies {'':20}  steps  gap of the best two  the worst's probability")
    for row in facts["certain"]:
        values = f"{row['steps']:7}  {row['gap']:19.3f}  {row['worst']:.2e}"
        print(f"  {row['replies']:7} {row['method']:20}{values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = measure(args.tasks, args.seed)
    facts["missed"] = missed(facts)
    facts["versions"] = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("superalign", "torch")},
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts, args.tasks)
        print("targets missed: " + (", ".join(facts["missed"]) or "none"))
        print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    sys.exit(1 if facts["missed"] else 0)


if __name__ == "__main__":
    main()
