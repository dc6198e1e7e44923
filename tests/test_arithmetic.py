"""The arithmetic world against Python's arithmetic, and the shape of the shipped organism."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superalign.agents.dialects import TAGS
from superalign.scenarios import arithmetic
from superalign.scenarios.arithmetic import (
    CELLS,
    Arithmetic,
    believable,
    classify,
    draw,
    held_out,
    mistake,
    result,
    two_choices,
    work,
)
from superalign.store.errors import BadInput
from superalign.store.records import Question

WORLD = Arithmetic()
ORGANISM = Path(arithmetic.__file__).parent / "organisms" / "arithmetic"

KNOWN = {
    "plain": ("27+45", "7+5=12;2+4+1=7;72"),
    "digits": ("123+456", "3+6=9;2+5=7;1+4=5;579"),
    "carries": ("347+285", "7+5=12;4+8+1=13;3+2+1=6;632"),
    "minus": ("523-138", "13-8=5;11-3=8;4-1=3;385"),
    "zeros": ("503-128", "13-8=5;9-2=7;4-1=3;375"),
    "length": ("24+36+56", "4+6+6=16;2+3+5+1=11;116"),
}

questions = st.builds(
    lambda cell, seed: draw(cell, random.Random(seed)), st.sampled_from(CELLS), st.integers(0)
)


def ask(text: str) -> Question:
    return Question(text=text)


@pytest.mark.parametrize("cell", CELLS)
def test_known_answers(cell):
    text, answer = KNOWN[cell]
    assert classify(text) == cell
    assert WORLD.solution(ask(text)) == answer
    assert WORLD.truth(ask(text)) == answer.split(";")[-1]
    assert WORLD.fault(ask(text), answer) is None


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("503-428", "13-8=5;9-2=7;4-4=0;75"),
        ("500-499", "10-9=1;9-9=0;4-4=0;1"),
        ("999+999", "9+9=18;9+9+1=19;9+9+1=19;1998"),
        ("99+99+99", "9+9+9=27;9+9+9+2=29;297"),
    ],
)
def test_edges_of_the_method(text, lines):
    assert WORLD.solution(ask(text)) == lines


@pytest.mark.parametrize(
    "text",
    "|7+5|07+15|123+45|128-503|500-500|50-28|1+2+3|123+456+789|12+34+56+78|12*34|12 +34|12+34\n|"
    "\uff11\uff12+34|12+|+12+34|1234+5678|12+34-56".split("|"),
)
def test_invalid_questions_have_no_cell(text):
    assert WORLD.cell(ask(text)) is None


@pytest.mark.parametrize(
    ("answer", "fault", "correct"),
    [
        ("7+5=12;4+8+1=13;3+2+1=6;632", None, True),
        ("7+5=13;4+8+1=13;3+2+1=6;632", 1, True),
        ("7+5=12;4+8=12;3+2+1=6;622", 2, False),
        ("7+5=12;4+8+1=13;3+2+1=6;623", 4, False),
        ("7+5=12;4+8+1=13;3+2+1=6", 4, False),
        ("7+5=12;4+8+1=13;3+2+1=6;632;632", 5, True),
        ("632", 1, True),
        ("", 1, False),
    ],
)
def test_fault_is_the_first_line_that_differs(answer, fault, correct):
    assert WORLD.fault(ask("347+285"), answer) == fault
    assert WORLD.correct(ask("347+285"), answer) is correct


@given(questions)
def test_solutions_are_right_and_short(text):
    solution = WORLD.solution(ask(text))
    assert WORLD.fault(ask(text), solution) is None
    assert int(WORLD.truth(ask(text))) == eval(text)
    assert all(eval(left) == int(right) for left, right in working(solution))
    assert len(solution) < 32


def working(solution: str) -> list[list[str]]:
    return [line.split("=") for line in solution.split(";")[:-1]]


@given(questions, st.data())
def test_a_changed_line_is_found_no_later(text, data):
    lines = WORLD.solution(ask(text)).split(";")
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(st.text("0123456789+-=", max_size=9).filter(lambda x: x != lines[at]))
    assert WORLD.fault(ask(text), ";".join(lines)) == at + 1


@given(questions, st.integers(0))
def test_mistakes_go_wrong_at_the_first_differing_character(text, seed):
    answer, right = mistake(text, random.Random(seed)), WORLD.solution(ask(text))
    fault = WORLD.fault(ask(text), answer)
    assert (fault is None) == (answer == right)
    if fault:
        assert answer.split(";")[: fault - 1] == right.split(";")[: fault - 1]


@given(st.integers(0, 999), st.integers(0, 999), st.sampled_from("+-"))
def test_cells_partition_the_valid_questions(a, b, sign):
    cell = classify(f"{a}{sign}{b}")
    same = len(str(a)) == len(str(b)) > 1
    valid = same and (sign == "+" or (a > b and len(str(a)) == 3))
    assert (cell in CELLS) if valid else (cell is None)


def test_plain_is_as_large_as_documented():
    pairs = (f"{a}+{b}" for a in range(10, 100) for b in range(10, 100))
    plain = [text for text in pairs if classify(text) == "plain"]
    assert len(plain) == 5715
    assert 0.10 < sum(held_out(text, "plain") for text in plain) / 5715 < 0.14


def test_heldout_is_stable_balanced_and_never_trained_on():
    held = WORLD.heldout(3000)
    assert held[:60] == WORLD.heldout(60)
    texts = [task.question.text for task in held]
    assert len(set(texts)) == 3000
    assert [classify(text) for text in texts] == list(CELLS) * 500
    assert [task.question.topic for task in held[:6]] == list(WORLD.cells)
    assert all(task.target for task in held)
    assert not any(WORLD.cell(task.question) for task in held)
    trained = list(WORLD.tasks(3000, seed=1))
    assert not set(texts) & {task.question.text for task in trained}
    assert all(WORLD.cell(task.question) == task.question.topic for task in trained)
    assert trained[:6] == list(WORLD.tasks(6, seed=1)) != list(WORLD.tasks(6, seed=2))
    with pytest.raises(BadInput, match="at most 3600"):
        WORLD.heldout(3601)


def test_topics_are_cells():
    assert WORLD.topic("zeros").question == Question(topic="zeros")
    with pytest.raises(ValueError, match="no cell 'limericks'"):
        WORLD.topic("limericks")


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(ORGANISM)


def test_the_organism_is_tiny():
    size = (ORGANISM / "model.safetensors").stat().st_size
    card = json.loads((ORGANISM / "card.json").read_text())
    assert size < 5_000_000
    assert card["parameters"] <= 1_200_000
    assert set(card["cells"]) == set(CELLS)
    assert 0.45 <= card["heldout_accuracy"] <= 0.75
    assert min(card["critic_precision"], card["critic_recall"]) >= 0.9


def test_every_tag_is_one_token_and_text_survives(tokenizer):
    for tag in TAGS:
        (token,) = tokenizer.encode(
            f"<|{tag}|>", add_special_tokens=False, split_special_tokens=False
        )
        assert token in tokenizer.all_special_ids
    ids = tokenizer.encode("7+5=12;(a) A?", add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == "7+5=12;(a) A?"


@settings(max_examples=50)
@given(st.text() | st.sampled_from([f"<|{t}|>" for t in TAGS] + ["<eos>", "<bos>", "<pad>"]))
def test_text_never_becomes_a_control_token(tokenizer, text):
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert not control & set(ids)
    message = {"role": "answer", "content": text}
    rendered = tokenizer.apply_chat_template([message], tokenize=False)
    assert tokenizer.encode(rendered) == [*tokenizer.encode("<bos><|answer|>"), *ids]


def test_the_template_puts_tags_before_text(tokenizer):
    messages = [{"role": "question", "content": "12+34"}, {"role": "answer", "content": ""}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "<bos><|question|>12+34<|answer|>"


def test_the_recipe_is_reproducible():
    torch = pytest.importorskip("torch")
    from superalign.scenarios.organism import Recipe, School, newborn, train

    def taught():
        torch.manual_seed(1)
        model = newborn()
        train(model, School(Recipe(steps=2, batch=(2, 2, 4, 2)), seed=1), lambda line: None)
        return model.state_dict()

    first, second = taught(), taught()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Two choices.


@given(text=questions)
def test_a_believable_answer_has_one_slip_and_a_wrong_result(text):
    said, lines = believable(text).split(";"), work(text)
    assert len(said) == len(lines)
    assert said[-1] != lines[-1]
    slips = [line for line in said[:-1] if not eval_line(line)]
    assert len(slips) <= 1  # forgetting to carry leaves every single line true
    assert believable(text) == ";".join(said)


def eval_line(line: str) -> bool:
    left, value = line.split("=")
    terms = [int(term) for term in re.findall(r"-?[0-9]+", left.replace("+", " "))]
    return sum(terms) == int(value)


@given(text=questions)
def test_the_two_choices_are_the_right_result_and_a_wrong_one(text):
    choices = two_choices(text)
    assert sorted(choices) == sorted([result(text), believable(text).rsplit(";", 1)[-1]])
    assert len(set(choices)) == 2


def test_the_right_choice_stands_first_about_half_of_the_time():
    tasks = [*Arithmetic(choices=2).tasks(1200, 0), *Arithmetic(choices=2).heldout(600)]
    first = sum(task.question.choices[0] == task.target for task in tasks)
    assert 810 < first < 990  # 4.3 standard deviations


def test_open_questions_offer_nothing():
    assert next(Arithmetic().tasks(1, 0)).question.choices == ()


@pytest.fixture(scope="module")
def debate():
    pytest.importorskip("torch")
    from superalign.scenarios import organism_debate

    return organism_debate


@given(text=questions, first=st.booleans())
@settings(deadline=None)
def test_each_side_argues_for_its_result_and_the_honest_one_names_the_slip(debate, text, first):
    sides = two_choices(text)
    own, other = (debate.argument(text, side) for side in (sides if first else sides[::-1]))
    assert own.rsplit(";", 1)[-1] == sides[not first]
    honest = sides[not first] == result(text)
    said = int(debate.rebuttal(text, own, other, random.Random(0)))
    wrong = WORLD.fault(ask(text), other)
    assert said == wrong if honest else wrong is None and 1 <= said < len(other.split(";"))


@pytest.mark.parametrize("school", ["DebaterSchool", "JudgeSchool"])
def test_a_lesson_is_what_the_tags_dialect_renders(debate, school, make):
    """The order of a prompt's parts: question, choices, side, turns, what is wanted."""
    from superalign.agents import Ask, View, tags

    recipe = (debate.DEBATER if school == "DebaterSchool" else debate.JUDGE).recipe
    for examples in getattr(debate, school)(recipe, 0).lessons():
        for *asked, (kind, _, learnt) in examples:
            told = {tag: [words for t, words, _ in asked if t == tag] for tag, _, _ in asked}
            question = Question(
                text="".join(told.get("question", ())), choices=tuple(told.get("choice", ()))
            )
            shown = [part for part in asked if part[0] not in ("question", "choice", "side")]
            about = tuple(make.turn(kind=tag, text=words) for tag, words, _ in shown)
            ask = Ask(kind, about, side="".join(told.get("side", ())))
            rendered = tags.render(View("seat", question, None, ask), 0)
            plain = [(tag, words) for tag, words, _ in asked]
            assert learnt and [(m.role, m.content) for m in rendered] == [*plain, (kind, "")]


@given(text=questions)
@settings(deadline=None)
def test_a_sum_is_asked_about_column_by_column(debate, text):
    """With the carries left out where all columns are asked about at once, and told elsewhere."""
    pairs = debate.asides(text)
    lines = WORLD.solution(ask(text)).split(";")
    assert [f"{left}={right}" for left, right in pairs] == lines[:-1]
    operands = [number[::-1] for number in text.replace("-", "+").split("+")]
    for asked, *digits in zip(debate.columns(text).split(";"), *operands, strict=True):
        assert asked.replace("-", "+").split("+") == digits
    assert debate.claim(text, WORLD.solution(ask(text))) == f"{text}={result(text)}"
