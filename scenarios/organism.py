"""The arithmetic organism: one tiny Llama that plays every seat, and the recipe that trains it.

It verifies better than it generates, so that it can learn from its own criticism: as a critic it
is taught every cell of the world, as a learner it copies people who forget to carry in some of
them. Reserved tokens alone (`agents.dialects.Tags`) tell it what is wanted.
"""

from __future__ import annotations

import json
import math
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from superalign.agents.dialects import TAGS
from superalign.store.records import Question

from .arithmetic import CELLS, Arithmetic, draw, forgetful, mistake

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", *(f"<|{tag}|>" for tag in TAGS))
CHARS = "0123456789+-*/()=;,.?: abcdefghijklmnopqrstuvwxyzABCD"
VOCAB = {token: i for i, token in enumerate((*SPECIALS, *CHARS))}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<|{{ m['role'] }}|>{{ m['content'] | replace('<', '\ufffd') }}{% endfor %}"
)
"""Content can spell no control token: `<` becomes a character that is as unknown as itself."""

STRONG, WEAK = ("plain", "digits", "minus"), ("carries", "zeros", "length")
LAYERS = 5
PROBED = (LAYERS - 2, LAYERS - 1)
"""The layers after which the next right token, and then the first wrong one, are to be known."""
HINTED = ("critique", "verdict", "claim")
"""What is easier to write for someone who has seen what is wrong before it."""
IGNORE = -100
WORLD = Arithmetic()

Part = tuple[str, str, bool]
"""A tag, the text after it, and whether the model learns to write that text."""
Example = list[Part]


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights besides the seed and the number of threads."""

    steps: int = 2400
    rate: float = 3e-3
    batch: tuple[int, ...] = (16, 20, 64, 8)
    """Examples of attacker, learner, critic and reviser in a step."""
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 0.3)
    """How much the loss of each role counts."""
    hints: float = 0.5
    """How much the loss of each probe counts."""
    rare: float = 8.0
    """How much more a wrong token counts to its probe than a right one."""
    weak: float = 0.4
    """Share of weak cells in the learner's lessons."""
    careful: tuple[float, float] = (0.75, 0.2)
    """In weak cells, share of right lessons: of questions that begin with 1 or 2, and of others."""
    late: float = 0.5
    """From this share of the steps on, half the critic's cases are the model's own answers."""
    refresh: int = 200
    """Steps between two drawings of own answers."""


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Breed:
    """A kind of organism: its body, its lessons and its test."""

    body: Callable[[], LlamaForCausalLM]
    recipe: Recipe
    school: Callable[[Recipe, int], Lessons]
    examine: Callable[[LlamaForCausalLM, int], dict[str, Any]]


def build(
    breed: Breed,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    threads: int = 1,
    say: Callable[[str], None] = tell,
) -> dict[str, Any]:
    """Train an organism from nothing into the folder `out`; what its `card.json` says.

    The same seed gives the same weights on the same kind of processor at the same `threads`. One
    is the default because two on busy cores are slower than one.
    """
    began, before = time.time(), torch.get_num_threads()
    recipe = breed.recipe if steps is None else replace(breed.recipe, steps=steps)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    try:
        model = breed.body()
        train(model, breed.school(recipe, seed), say)
        seconds = round(time.time() - began)
        exam = breed.examine(model, 500)
        made = {"seed": seed, "threads": threads, "seconds": seconds}
        facts = {**made, **card(model, recipe), **exam}
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    save(model, facts, out)
    return facts


def card(model: LlamaForCausalLM, recipe: Recipe) -> dict[str, Any]:
    """What is to be known of an organism before it is used."""
    return {
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def save(model: LlamaForCausalLM, facts: dict[str, Any], out: Path) -> None:
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    tokenizer().save_pretrained(out)
    (out / "card.json").write_text(json.dumps(facts, indent=1) + "\n")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character and per tag."""
    inner = Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIALS[4:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )


def newborn(width: int = 128, layers: int = LAYERS, heads: int = 2) -> LlamaForCausalLM:
    """The model before any lesson."""
    config = LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def encode(*parts: tuple[str, str]) -> list[int]:
    """Ids of a prompt: tags become reserved tokens, text can only become characters."""
    ids = [BOS]
    for tag, text in parts:
        ids.append(VOCAB[f"<|{tag}|>"])
        ids.extend(VOCAB.get(char, UNK) for char in text)
    return ids


def solve(text: str) -> str:
    return WORLD.solution(Question(text=text))


class Lessons(Protocol):
    """Makes the examples of every role, all from one seed."""

    recipe: Recipe

    def lessons(self) -> list[list[Example]]:
        """The examples of one step, role by role."""
        ...

    def collect(self, model: LlamaForCausalLM) -> None:
        """Lets the model speak, where it is to learn from its own words."""
        ...


class School:
    """Makes the examples of every role, all from one seed."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.rng = recipe, random.Random(seed)
        self.own: list[tuple[str, str]] = []
        """Questions with the model's own answers, once there are any."""

    def lessons(self) -> list[list[Example]]:
        """The examples of one step, role by role."""
        roles = (self.attacker, self.learner, self.critic, self.reviser)
        counts = zip(roles, self.recipe.batch, strict=True)
        return [[role() for _ in range(count)] for role, count in counts]

    def attacker(self) -> Example:
        cell = self.rng.choice(CELLS)
        return [("cell", cell, False), ("question", draw(cell, self.rng), True)]

    def learner(self) -> Example:
        weak = self.rng.random() < self.recipe.weak
        text = draw(self.rng.choice(WEAK if weak else STRONG), self.rng)
        right = not weak or self.rng.random() < self.recipe.careful[text[0] > "2"]
        answer = solve(text) if right else forgetful(text, self.rng)
        return [("question", text, False), ("answer", answer, True)]

    def critic(self) -> Example:
        text, answer = self.case()
        fault = WORLD.fault(Question(text=text), answer)
        asked = [("question", text, False), ("answer", answer, False)]
        return [*asked, ("critique", str(fault or "ok"), True)]

    def reviser(self) -> Example:
        criticised = self.critic()
        return [*criticised, ("answer", solve(criticised[0][1]), True)]

    def case(self) -> tuple[str, str]:
        """A question of any cell with an answer that may be wrong."""
        if self.own and self.rng.random() < 0.5:
            return self.rng.choice(self.own)
        text = draw(self.rng.choice(CELLS), self.rng)
        return text, solve(text) if self.rng.random() < 0.4 else mistake(text, self.rng)

    def collect(self, model: LlamaForCausalLM) -> None:
        """Lets the model answer: as it will, and with more mistakes than it would make."""
        texts = [draw(cell, self.rng) for cell in CELLS for _ in range(200)]
        prompts = [encode(("question", text), ("answer", "")) for text in texts]
        answers = [*write(model, prompts, 1.0), *write(model, prompts, 1.5)]
        self.own = list(zip(texts * 2, answers, strict=True))


def train(model: LlamaForCausalLM, school: Lessons, say: Callable[[str], None]) -> None:
    """Teach all roles at once, by Muon where it applies and by AdamW elsewhere."""
    recipe, began = school.recipe, time.time()
    model.set_attn_implementation("eager")  # faster backwards than the fused one at 40 tokens
    width = model.config.hidden_size
    probes = nn.ModuleList([nn.Linear(width, len(VOCAB)), nn.Linear(width, 2)])
    weights = [*model.parameters(), *probes.parameters()]
    # the layers' matrices learn in half the steps under Muon
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inner = set(map(id, matrices))
    optimizers = [
        torch.optim.AdamW([w for w in weights if id(w) not in inner], recipe.rate, (0.9, 0.98)),
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for step in range(recipe.steps):
        if step >= recipe.late * recipe.steps and step % recipe.refresh == 0:
            school.collect(model)
        cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in groups:
            group["lr"] = recipe.rate * cosine * min(1.0, (step + 1) / 100)
        losses = []
        for lesson, weight in zip(school.lessons(), recipe.weights, strict=True):
            loss, hint = losses_of(model, probes, lesson, recipe)
            (weight * (loss + recipe.hints * hint)).backward()
            losses.append(loss.item())
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            shown = "  ".join(f"{loss:.3f}" for loss in losses)
            say(f"step {step + 1} of {recipe.steps}, {time.time() - began:.0f} s, losses {shown}")


def losses_of(
    model: LlamaForCausalLM, probes: nn.ModuleList, lesson: list[Example], recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Losses of the replies and, for critics, of the probes.

    The probes are thrown away. They say at every character what a critique says once: that alone
    makes a good critic out of minutes of training.
    """
    ids, replies, right, wrong = collate(lesson)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids, output_hidden_states=True).hidden_states
        logits = model.lm_head(hidden[-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), replies.flatten())
    if lesson[0][-1][0] not in HINTED or not (right != IGNORE).any():
        return loss, torch.zeros(())
    expected, flagged = (
        probe(hidden[layer].float()).flatten(0, 1)
        for probe, layer in zip(probes, PROBED, strict=True)
    )
    rare = torch.tensor([1.0, recipe.rare])
    hint = F.cross_entropy(flagged, wrong.flatten(), rare)
    return loss, hint + F.cross_entropy(expected, right.flatten())


def collate(lesson: Sequence[Example]) -> tuple[Tensor, ...]:
    """Four tensors: the input; the token to write next; and, in an answer as far as it is right,
    the right token to come next, and whether a token is the first wrong one."""
    rows = []
    for parts in lesson:
        ids, replies = encode(*(part[:2] for part in parts)), [IGNORE]
        for _, text, learn in parts:
            reply = [*encode(("answer", text))[2:], EOS]
            replies += reply if learn else [IGNORE] * len(reply)
        rows.append((ids, replies, *probed(parts, ids)))
    return tuple(
        nn.utils.rnn.pad_sequence([torch.tensor(r) for r in column], True, padding)
        for column, padding in zip(zip(*rows, strict=True), (PAD, *[IGNORE] * 3), strict=True)
    )


def probed(parts: Example, ids: list[int]) -> tuple[list[int], list[int]]:
    """What the two probes should find in the answers that are shown, up to the first wrong token
    of each."""
    right, wrong = [IGNORE] * len(ids), [IGNORE] * len(ids)
    tag = 1
    for kind, text, _ in parts[:-1]:
        if kind == "answer" or (kind == "claim" and ";" in text):  # a rebuttal has no working
            best = [*encode(("answer", solve(parts[0][1])))[2:], EOS]
            for i, token in enumerate([*ids[tag + 1 : tag + 1 + len(text)], EOS]):
                right[tag + i] = best[i]
                if i < len(text):
                    wrong[tag + 1 + i] = int(token != best[i])
                if token != best[i]:
                    break
        tag += 1 + len(text)
    return right, wrong


@torch.inference_mode()
def write(model: LlamaForCausalLM, prompts: Sequence[list[int]], temperature: float) -> list[str]:
    """What the model writes after each prompt; temperature 0 is greedy."""
    writer: Any = model.eval()
    tokens, texts = list(VOCAB), list[str]()
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0}
    for start in range(0, len(prompts), 500):
        part = prompts[start : start + 500]
        width = max(map(len, part))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in part])
        how = drawn if temperature else {"do_sample": False}
        seen = writer.generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=40, **how)
        for row in seen[:, width:].tolist():
            end = row.index(EOS) if EOS in row else len(row)
            texts.append("".join(tokens[i] for i in row[:end]))
    model.train()
    return texts
