"""The report: known answers of its statistics, facts counted by hand, and a page that is safe."""

import asyncio
import json
import random
import re

import numpy as np
import pytest

from superalign.agents import Agent, Completion, Sampling, chat
from superalign.learners.estimates import wilson
from superalign.protocols.critique import critique
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting
from superalign.scenarios.arithmetic import CELLS, Arithmetic, draw, mistake
from superalign.scenarios.report import report_facts, write_report
from superalign.scenarios.statistics import Confusion, Paired, distinct_share
from superalign.store import Evaluation, Label, PolicyVersion, Row, Run, Store
from superalign.store.records import Message

WORLD = Arithmetic()
SCENARIO = {
    "name": "small",
    "world": {"kind": "arithmetic"},
    "protocol": {"name": "critique", "samples": 2, "revisions": 1},
    "labels": {"human": {"source": "oracle", "budget": 4, "policy": "random", "noise": 0.0}},
    "iterations": 1,
    "episodes": 4,
    "learn": {"method": "exo"},
    "evaluate": {"heldout": 6},
    "seed": 0,
}
FLIPS = {"accepted": 0.1, "rejected": 0.2, "human": 0.0, "n_accepted": 8, "n_rejected": 8}


class Player:
    """A scripted model that plays every seat of the arithmetic world, as well as it is told to."""

    name, dialect = "player", chat

    def __init__(self, skill):
        self.skill = skill
        """(policy, cell) -> probability of a right answer."""

    async def generate(self, request):
        rng, question = random.Random(request.seed), request.view.question
        text = getattr(self, request.view.ask.kind)(rng, question, request)
        return Completion(text=text, token_ids=tuple(range(len(text))), prompt_tokens=9)

    def question(self, rng, question, request):
        cell = rng.choice(CELLS) if rng.random() < 0.1 else question.topic
        return "12*7" if rng.random() < 0.04 else draw(cell, rng)

    def answer(self, rng, question, request):
        skill = self.skill(request.policy, WORLD.cell(question))
        right = rng.random() < skill + 0.3 * (1 - skill) * bool(request.view.ask.about)
        return WORLD.solution(question) if right else mistake(question.text, rng)

    def critique(self, rng, question, request):
        fault = WORLD.fault(question, request.view.ask.about[0].text)
        if rng.random() < 0.12:
            fault = rng.choice([None, 1, 2])
        return str(fault or "ok")

    async def close(self): ...


def play(store, model, tasks, iteration=1, policy="learner-0", tags=(), params=None, first=0):
    """Episodes of the critique protocol, one for each task; the model plays every seat."""
    params = critique.params(params or {"samples": 2})
    cast = {
        seat: Agent(model, policy if seat == "learner" else seat, Sampling())
        for seat in critique.seats
    }
    plans = [
        Plan(run="r", scenario="small", index=i, iteration=iteration, task=task, seed=i, tags=tags)
        for i, task in enumerate(tasks, first)
    ]
    ended = []
    asyncio.run(run_many(Setting(critique, params, cast, store, WORLD), plans, ended.append))
    return ended


def begin(path, **scenario):
    store = Store.open(path / "store.sqlite", write=True)
    scenario = SCENARIO | scenario
    store.put_run(Run(id="r", scenario=scenario, origin="x", protocol_hash="h", version="0"))
    return store


def evaluation(iteration, item, cell, correct, tokens=10):
    fields = {"text": "", "correct": bool(correct), "tokens": tokens, "policy": f"v{iteration}"}
    return Evaluation(iteration=iteration, item=str(item), cell=cell, **fields)


def version(iteration, **metrics):
    fields = {"seat": "learner", "config": {}, "rows": "x", "path": "p", "method": "exo"}
    name, parent = f"learner-{iteration}", f"learner-{iteration - 1}" if iteration else None
    fields |= {} if iteration else {"method": "base", "rows": None}
    return PolicyVersion(id=name, parent=parent, iteration=iteration, metrics=metrics, **fields)


def realistic(path, episodes=48, heldout=90, iterations=2):
    """A whole run, shaped like the arithmetic scenario's."""
    sizes = {"iterations": iterations, "episodes": episodes, "evaluate": {"heldout": heldout}}
    store = begin(path, name="arithmetic", **sizes)

    def skill(policy, cell):
        start = 0.9 - 0.1 * CELLS.index(cell)
        return start + 0.2 * int(policy[-1]) * (1 - start)

    for i in range(iterations + 1):
        if i:
            common = {"iteration": i, "policy": f"learner-{i - 1}", "params": {"samples": 4}}
            for tag, first, end in (("explore", 0, 12), ("exploit", 12, episodes)):
                tasks = [WORLD.topic(CELLS[n % 6]) for n in range(first, end)]
                first += (i - 1) * episodes
                play(store, Player(skill), tasks, tags=(tag,), first=first, **common)
        step = {"loss": 1.2, "preference": 0.69, "sft": 0.5, "chosen_logprob": -9.0}
        store.put_version("r", version(i, first=step, last=step, seconds=31.5, flips=FLIPS))
        cells = [(n, CELLS[n % 6]) for n in range(heldout)]
        right = [random.Random(n).random() < skill(f"learner-{i}", cell) for n, cell in cells]
        found = [evaluation(i, n, cell, r) for (n, cell), r in zip(cells, right, strict=True)]
        store.put_evaluations("r", found)
    return store


def row(n, iteration, source):
    prompt = (Message(role="question", content=f"{n}+{iteration}"),)
    fields = {"kind": "pref", "seat": "learner", "prompt": prompt, "replies": ("a", "b")}
    fields |= {"source": source, "judge": "critic", "turns": (), "iteration": iteration}
    return Row.model_validate(fields)


def label(store, episode, turn, correct, source="human"):
    fields = {"run": "r", "episode": episode.id, "turn": turn, "correct": correct}
    fields |= {"source": source, "author": source, "why": "audit"}
    store.put_labels([Label.model_validate(fields)])


class Book:
    """Plays from a table: topic -> question; question -> answers in turn; answer -> critique."""

    name, dialect = "book", chat

    def __init__(self, questions, answers, critiques):
        self.questions, self.answers, self.critiques = questions, answers, critiques

    async def generate(self, request):
        kind, question, finish = request.view.ask.kind, request.view.question, "stop"
        if kind == "question":
            text = self.questions[question.topic]
        elif kind == "critique":
            text = self.critiques.get(request.view.ask.about[0].text, "ok")
        else:
            text = self.answers[question.text][request.nth]
            finish = "length" if text == SLIP else "stop"
        return Completion(text=text, token_ids=(1, 2), prompt_tokens=3, finish=finish)

    async def close(self): ...


WRONG, RIGHT = "7+5=12;2+4=6;62", "7+5=12;2+4+1=7;72"
SLIP = "3+6=9;2+5=8;1+4=5;579"  # a wrong line, and the right result
MINUS = "13-8=5;11-3=8;4-1=3;385"
QUESTIONS = {
    "plain": "27+45", "digits": "123+456", "zeros": "27+46", "carries": "7*8",
    "length": "24+36+56", "minus": "523-138",
}  # fmt: skip
BOOK = Book(
    QUESTIONS,
    {
        "27+45": [WRONG, WRONG, RIGHT, RIGHT],
        "123+456": ["3+6=9;2+5=7;1+4=5;579", SLIP],
        "27+46": ["7+6=13;2+4+1=7;74", "7+6=13;2+4+1=7;75", "7+6=13;2+4+1=7;74"],
        "24+36+56": ["1", "2"],
        "523-138": [MINUS] * 4,
    },
    {WRONG: "2", "7+6=13;2+4+1=7;74": "1", MINUS: "1", "1": "dunno"},
)


@pytest.fixture
def small(tmp_path):
    """Six episodes and six held-out items, few enough to count by hand."""
    with begin(tmp_path, episodes=6) as store:
        [hit, _] = play(store, BOOK, map(WORLD.topic, ("plain", "digits")), tags=("explore",))
        steered = map(WORLD.topic, ("zeros", "carries", "length", "minus"))
        play(store, BOOK, steered, tags=("exploit",), first=2)
        for source, found in zip(("human", "oracle"), hit.critiques, strict=False):
            label(store, hit, found.about, False, source)
        cells = dict.fromkeys("abc", "plain") | dict.fromkeys("def", "zeros")
        for iteration, right in enumerate(("abd", "adef")):
            found = [
                evaluation(iteration, item, cell, item in right, 10 + 2 * iteration)
                for item, cell in cells.items()
            ]
            store.put_evaluations("r", found)
        rows = [row(n, 1, source) for n, source in enumerate(("ai", "ai", "human"))]
        store.put_rows("r", rows)
        store.put_version("r", version(0))
        metrics = {"rows": 3, "seconds": 1.5, "flips": FLIPS, "first": {"loss": float("nan")}}
        store.put_version("r", version(1, **metrics), rows)
        yield store


def test_facts_counted_by_hand(small):
    facts = report_facts(small, "r")
    base, first = facts["iterations"]
    assert (base["heldout_accuracy"], first["heldout_accuracy"]) == (3 / 6, 4 / 6)
    assert first["cells"]["zeros"]["accuracy"] == 1.0 and first["cells"]["zeros"]["n"] == 3
    assert first["change"] == {"fixed": 2 / 6, "broken": 1 / 6}
    assert first["attacker_hit_rate"] == 1 / 3  # of three that did not fail, one invalid
    assert first["uniform_hit_rate"] == 1 / 2
    assert first["hit_ratio"] == pytest.approx(2 / 3)
    assert (first["episodes"], first["failed"], first["human_labels"]) == (6, 1, 1)
    attack = first["attack"]
    assert (attack["attacker_believed"], attack["uniform_believed"]) == (1 / 3, 0.5)
    assert (attack["invalid_share"], attack["off_cell_share"]) == (1 / 5, 1 / 4)
    assert attack["verdicts"] == {"failed": 2, "fluke": 1, "invalid": 1, "solved": 1}
    assert (first["critic_precision"], first["critic_recall"]) == (4 / 8, 4 / 6)
    assert first["critic"]["exact_share"] == 2 / 4
    assert first["critic"]["mcc"] == pytest.approx(4 / np.sqrt(8 * 6 * 7 * 5))
    assert first["critic"]["judged"] == 13
    assert first["diversity"] == (1 / 2 + 1) / 2
    assert first["answers"] == {
        "played_accuracy": 4 / 8,
        "truncated_share": 1 / 13,
        "distinct_results": 1 / 2,
        "heldout_tokens": 12.0,
    }
    assert first["rows"] == {"pref": {"ai": 2, "human": 1}}
    assert first["cost"]["calls"] == 9 + 5 + 7 + 1 + 5 + 9
    assert first["cost"]["completion_tokens"] == 2 * first["cost"]["calls"]


def test_iteration_0_has_no_play(small):
    base = report_facts(small, "r")["iterations"][0]
    unknown = "attacker_hit_rate uniform_hit_rate hit_ratio critic_precision diversity learner"
    assert {base[key] for key in unknown.split()} == {base["critic"]["mcc"]} == {None}


def test_gain_and_run(small):
    facts = report_facts(small, "r")
    assert facts["gain"]["points"] == pytest.approx(100 / 6)
    assert facts["cells"]["plain"]["points"] == pytest.approx(-100 / 3)
    assert (facts["cells"]["zeros"]["before"], facts["cells"]["zeros"]["after"]) == (1 / 3, 1.0)
    assert facts["cells_down"] == []  # three items prove nothing
    assert facts["complete"] and facts["method"] == "exo"
    assert facts["label_source"] == "critic and 4 human labels"
    assert "did not change measurably, from 50.0% to 66.7% after one update" in facts["headline"]
    assert facts["iterations"][1]["learner"]["flips"] == FLIPS


def test_no_number_is_nan(small, tmp_path):
    write_report(small, "r", tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "report.json").read_text()
    facts = json.loads(text, parse_constant=pytest.fail)
    assert facts["iterations"][1]["learner"]["first"] == {"loss": None}


@pytest.mark.parametrize(
    ("lost", "down", "word"), [(60, ["zeros"], "fell"), (2, [], "did not change measurably")]
)
def test_a_loss_is_said(tmp_path, lost, down, word):
    with begin(tmp_path) as store:
        for i in (0, 1):
            right = [n >= lost * i for n in range(300)]
            store.put_evaluations("r", [evaluation(i, n, "zeros", r) for n, r in enumerate(right)])
        facts = report_facts(store, "r")
    assert facts["cells_down"] == down
    assert f"Held-out accuracy {word}, from 100.0%" in facts["headline"]


def test_an_empty_run(tmp_path):
    with begin(tmp_path) as store:
        facts, page = write_report(store, "r", tmp_path)
    assert facts["iterations"] == [] and facts["gain"] is None and not facts["complete"]
    assert "0 episodes were played" in page.read_text()


def test_an_interrupted_run(tmp_path):
    with begin(tmp_path) as store:
        store.put_evaluations("r", [evaluation(0, n, "zeros", n < 3) for n in range(6)])
        play(store, BOOK, [WORLD.topic("plain")], tags=("explore",))
        facts, page = write_report(store, "r", tmp_path)
    assert len(facts["iterations"]) == 2 and not facts["complete"] and facts["gain"] is None
    assert "before any update is 50.0% (95% interval 18.8% to 81.2%)" in facts["headline"]
    assert "This run is not finished" in page.read_text()


def test_a_run_that_only_plays(tmp_path):
    """Like gsm8k: no update, no test, no archive."""
    with begin(tmp_path, learn=None, evaluate=None, labels={}, episodes=2) as store:
        play(store, BOOK, [WORLD.topic("plain"), WORLD.topic("digits")])
        facts, page = write_report(store, "r", tmp_path)
    [only] = facts["iterations"]
    assert only["iteration"] == 1 and only["heldout_accuracy"] is None and only["cells"] == {}
    assert only["attacker_hit_rate"] is None and only["critic_recall"] == 2 / 3
    assert only["diversity"] == 3 / 4 and only["attack"]["off_cell_share"] is None
    assert facts["complete"] and facts["gain"] is None
    assert "2 episodes were played" in page.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a whole run."""
    folder = tmp_path_factory.mktemp("whole")
    with realistic(folder) as store:
        return write_report(store, "r", folder)[1].read_text()


def test_the_page_stands_alone(page):
    csp = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'http-equiv="Content-Security-Policy" content="{csp}"' in page
    assert not re.search(r"https?:|src=|<script|<link|@import|url\((?!#)", page, re.IGNORECASE)


def test_the_page_is_accessible(page):
    assert '<html lang="en">' in page and page.count("<h1>") == 1
    assert page.count("<table") == page.count("<caption>") == 2
    assert page.count("<svg") == page.count('<div role="img" aria-label="') == 6
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_hostile_text_is_escaped(tmp_path):
    attack = "</pre><script>alert(1)</script>"
    book = Book(
        {"plain": "27+45"},
        {"27+45": [attack] * 4},
        {attack: f"<img src=x onerror=alert(1)>{attack}\nCritique: 1"},
    )
    with begin(tmp_path, name=attack, protocol={"name": attack}) as store:
        play(store, book, [WORLD.topic("plain")], tags=("explore",))
        for i in (0, 1):
            store.put_evaluations("r", [evaluation(i, 1, f"$\\frac{attack}", True)])
        facts, page = write_report(store, "r", tmp_path)
    assert facts["examples"][0]["turns"][0]["text"] == attack
    text = page.read_text()
    assert "<script" not in text and "<img" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 5  # learner, critic, scenario, cell, plots


# Statistics.


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (8, 10, 0.490162, 0.943318),
        (50, 100, 0.403832, 0.596168),
        (1, 29, 0.006113, 0.171755),
    ],
)
def test_wilson(hits, n, low, high):
    found = wilson(hits, n)
    assert found is not None and found.value == hits / n
    assert found.ci == pytest.approx([low, high], abs=5e-5)


def test_the_paired_bootstrap_is_that_over_items():
    rng = np.random.default_rng(1)
    before, after = rng.random(400) < 0.6, rng.random(400) < 0.7
    paired = Paired.of(
        {str(i): x for i, x in enumerate(before)}, {str(i): x for i, x in enumerate(after)}
    )
    found = paired.difference()
    drawn = rng.integers(0, 400, size=(10_000, 400))
    change = after.astype(int) - before
    low, high = np.quantile(change[drawn].mean(1), (0.025, 0.975))
    assert found is not None and paired.n == 400
    assert found.value == pytest.approx(after.mean() - before.mean())
    assert found.ci == pytest.approx([low, high], abs=0.004)
    assert found == paired.difference() != paired.difference(seed=1)


def test_paired_counts_what_both_answered():
    before = {"a": True, "b": False, "c": True, "only before": True}
    after = {"a": True, "b": True, "c": False, "only after": True}
    paired = Paired.of(before, after)
    assert paired == Paired(kept=1, gained=1, lost=1, missed=0)
    assert Paired(0, 0, 0, 0).difference() is None
    assert Paired(5, 0, 0, 5).difference() == (0.0, 0.0, 0.0)


def test_confusion():
    seen = Confusion(tp=6, fp=1, fn=2, tn=3)
    assert seen.mcc == pytest.approx(16 / np.sqrt(7 * 8 * 4 * 5))
    assert seen.precision == wilson(6, 7) and seen.recall == wilson(6, 8)
    assert Confusion(5, 0, 0, 5).mcc == 1.0 and Confusion(0, 5, 5, 0).mcc == -1.0
    assert Confusion(5, 5, 0, 0).mcc == 0.0  # a denominator of 0
    nothing = Confusion(0, 0, 0, 0)
    assert (nothing.mcc, nothing.precision, nothing.recall) == (None, None, None)


def test_distinct_share():
    assert (distinct_share(["a", "a", "b", "c"]), distinct_share(["a", "a"])) == (0.75, 0.5)
