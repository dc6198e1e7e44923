"""Every kind of organism that `superalign organism` can train, and the first one's test."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

from superalign.store.records import Question

from .arithmetic import CELLS, classify
from .organism import WORLD, Breed, Recipe, School, encode, newborn, write
from .organism_debate import DEBATER, JUDGE


def examine(model: LlamaForCausalLM, per_cell: int) -> dict[str, Any]:
    """Every role against the world, on held-out questions: in all, and cell by cell."""
    torch.manual_seed(0)
    tasks = [task.question for task in WORLD.heldout(per_cell * len(CELLS))]
    asked = [[("question", task.text)] for task in tasks]
    prompts = [encode(*ask, ("answer", "")) for ask in asked]
    greedy, drawn = write(model, prompts, 0.0), write(model, prompts, 1.0)
    asked = [[*ask, ("answer", text)] for ask, text in zip(asked, drawn, strict=True)]
    said = write(model, [encode(*ask, ("critique", "")) for ask in asked], 0.0)
    asked = [[*ask, ("critique", text)] for ask, text in zip(asked, said, strict=True)]
    revised = write(model, [encode(*ask, ("answer", "")) for ask in asked], 0.0)
    wanted = list(CELLS) * per_cell
    made = write(model, [encode(("cell", cell), ("question", "")) for cell in wanted], 1.0)
    rows = [
        {
            "greedy": WORLD.correct(task, a),
            "sampled": WORLD.correct(task, b),
            "revised": WORLD.correct(task, d),
            "blamed": c != "ok",
            "faulty": WORLD.fault(task, b) is not None,
            "line": c == str(WORLD.fault(task, b) or "ok"),
            "asked_for": classify(e) == cell,
            "usable": WORLD.cell(Question(text=e)) == cell,
            "question": e,
        }
        for task, a, b, c, d, e, cell in zip(
            tasks, greedy, drawn, said, revised, made, wanted, strict=True
        )
    ]
    cells = {cell: summary(rows[i :: len(CELLS)]) for i, cell in enumerate(CELLS)}
    return {**summary(rows), "cells": cells}


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The shares that a card tells."""

    def share(of: str, among: str | None = None) -> float:
        some = [row for row in rows if among is None or row[among]]
        return round(sum(row[of] for row in some) / max(1, len(some)), 4)

    return {
        "heldout_accuracy": share("greedy"),
        "sampled_accuracy": share("sampled"),
        "revised_accuracy": share("revised"),
        "critic_precision": share("faulty", "blamed"),
        "critic_recall": share("blamed", "faulty"),
        "critic_line": share("line"),
        "attacker_validity": share("asked_for"),
        "attacker_usable": share("usable"),
        "attacker_distinct": round(len({row["question"] for row in rows}) / len(rows), 4),
    }


BREEDS = {
    "arithmetic": Breed(newborn, Recipe(), School, examine),
    "arithmetic-debater": DEBATER,
    "arithmetic-judge": JUDGE,
}
