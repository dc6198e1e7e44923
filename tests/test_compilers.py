"""What one critique becomes in every way of compiling it: which rows, which tokens, from whom."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from superalign.agents import Ask, view
from superalign.agents.dialects import chat
from superalign.agents.tokens import decode, encode_reply
from superalign.learners import FlipRates, compilers
from superalign.learners.compilers import Mark, criticised, marks, spread, token_spans
from superalign.learners.rows import pair_flip
from superalign.scenarios import arithmetic
from superalign.scenarios.commands import run_scenario
from superalign.store import Store
from superalign.store.errors import BadInput
from superalign.store.records import Critique, Message, Question, Turn, Verdict

SCENARIO = Path(arithmetic.__file__).parent / "arithmetic.yaml"
ORGANISM = SCENARIO.parent / "organisms" / "arithmetic"
WORLD = arithmetic.Arithmetic()
FLIPS = FlipRates(accepted=0.2, rejected=0.1)
WRONG, RIGHT = "7+5=12;4+8=12;122", "7+5=12;4+8+1=13;132"


def letters(ids):
    """A tokenizer of one token per character, whose end token writes nothing."""
    return "".join(map(chr, filter(None, ids)))


def written(text, ids):
    """A turn with these tokens."""
    filled = {
        "key": "0:answer:0/learner:0", "seat": "learner", "kind": "answer", "text": text,
        "policy": "learner@1", "messages": (), "sampling": {}, "seed": 0,
    }  # fmt: skip
    return Turn.model_validate({**filled, "token_ids": tuple(ids)})


def prompt_of(turn):
    return tuple(Message(role="part", content=content) for content in turn.messages)


@pytest.fixture
def said(make):
    """`said((text, fault), …)`: answers, each criticised; `(text, fault, n)` revises the n-th."""

    def build(*answers, **more):
        turns, critiques = [], []
        for n, (text, fault, *of) in enumerate(answers):
            asked = ("47+85",)
            if of:
                asked += (answers[of[0]][0], str(answers[of[0]][1] or "ok"))
            of_learner = {
                "text": text, "messages": asked, "policy": "learner@1",
                "token_ids": (*map(ord, text), 0),
            }  # fmt: skip
            turns.append(make.turn(f"{n:04}:answer:0000/learner:{n:02}", **of_learner))
            of_critic = {"text": str(fault or "ok"), "kind": "critique", "policy": "critic@1"}
            turns.append(make.turn(f"{n:04}:criticise:0000/critic:{n:02}", **of_critic))
            critiques.append(Critique(turn=turns[-1].key, about=turns[-2].key, fault=fault))
        filled = {"critiques": tuple(critiques), "truth": "132", "iteration": 2, **more}
        return make.episode(*turns, **filled)

    return build


def answer(n):
    return f"run/e/{n:04}:answer:0000/learner:{n:02}"


def critique(n):
    return f"run/e/{n:04}:criticise:0000/critic:{n:02}"


# The scalar.


def test_a_scalar_is_what_the_critic_said_of_each_answer_and_how_far_it_is_believed(said):
    wrong, right = compilers.scalar(
        said((WRONG, 2), (RIGHT, None, 0)), prompt_of=prompt_of, flips=FLIPS
    )
    assert (wrong.kind, wrong.replies, wrong.rewards) == ("reward", (WRONG,), (0.0,))
    assert (right.replies, right.rewards) == ((RIGHT,), (1.0,))
    assert (wrong.flip_prob, right.flip_prob) == (FLIPS.rejected, FLIPS.accepted)
    assert wrong.turns == (answer(0), critique(0))
    assert [m.content for m in right.prompt] == ["47+85", WRONG, "2"]  # its own prompt
    assert (wrong.judge, wrong.source, wrong.iteration) == ("critic@1", "ai", 2)


def test_an_answer_that_was_drawn_twice_counts_twice(said):
    found = compilers.scalar(said((WRONG, 2), (WRONG, 2)), prompt_of=prompt_of)
    assert [row.turns[0] for row in found] == [answer(0), answer(1)]


def test_what_nobody_criticised_has_no_reward(said):
    episode = said((WRONG, 2), (RIGHT, None))
    silent = episode.model_copy(update={"critiques": episode.critiques[:1]})
    (row,) = compilers.scalar(silent, prompt_of=prompt_of)
    assert row.turns[0] == answer(0)


# Lines, and the tokens that wrote them.


@pytest.mark.parametrize(
    ("text", "fault", "expected"),
    [
        ("ab;c;d", None, [(0, 3, True), (3, 5, True), (5, 6, True)]),
        ("ab;c;d", 1, [(0, 3, False)]),
        ("ab;c;d", 3, [(0, 3, True), (3, 5, True), (5, 6, False)]),
        ("ab;c;d", 4, [(0, 3, True), (3, 5, True), (5, 6, True), (6, 7, False)]),
        ("ab;c;d", 5, None),
        (" ab;c ", 2, [(1, 4, True), (4, 5, False)]),
        ("", 1, [(0, 0, False)]),
    ],
)
def test_a_critique_marks_the_lines_up_to_the_fault(text, fault, expected):
    told = marks(text, fault, ";")
    assert told == (expected and [Mark(*one) for one in expected])


def test_the_faulty_line_pays_on_its_own_tokens(said):
    (row,) = compilers.tokens(
        said((WRONG, 2)), prompt_of=prompt_of, decode=letters, separator=";", flips=FLIPS
    )
    line = [1 / 7 / 2] * 7  # of two marks, each spread over seven characters
    assert row.token_rewards == pytest.approx([*line, *(-r for r in line), 0, 0, 0, 0])
    assert (row.rewards, row.flip_prob) == ((0.0,), FLIPS.rejected)
    assert row.token_ids == (*map(ord, WRONG), 0)
    assert row.turns == (answer(0), critique(0))


def test_a_missing_line_is_the_end_token_s_fault(said):
    (row,) = compilers.tokens(
        said(("7+5=12", 2)), prompt_of=prompt_of, decode=letters, separator=";"
    )
    assert row.token_rewards == pytest.approx([1 / 6 / 2] * 6 + [-1 / 2])


def test_tokens_leave_out_what_they_cannot_place(said):
    told = {"prompt_of": prompt_of, "decode": letters, "separator": ";"}
    assert compilers.tokens(said((WRONG, 9)), **told) == []  # there is no such line
    episode = said((WRONG, 2))
    for lost in ({"token_ids": None}, {"normalised": True}):
        turn = episode.turns[0].model_copy(update=lost)
        bare = episode.model_copy(update={"turns": (turn, episode.turns[1])})
        assert compilers.tokens(bare, **told) == []
    short = said(("7+5=12", 2))
    unended = short.turns[0].model_copy(update={"token_ids": tuple(map(ord, "7+5=12"))})
    bare = short.model_copy(update={"turns": (unended, short.turns[1])})
    assert compilers.tokens(bare, **told) == []


def test_another_policy_s_tokenizer_is_refused(said):
    with pytest.raises(BadInput, match="tokenizer of learner@1"):
        token_spans(said((WRONG, 2)).turns[0], lambda ids: letters(ids).upper() + "?")


texts = st.text(st.characters(exclude_characters="\ufffd", codec="utf-8"), max_size=20)


@given(texts, st.lists(st.integers(0, 80), max_size=12))
def test_a_token_spans_the_characters_that_it_completes(text, cuts):
    """Byte tokens cut anywhere, within characters too, against a count of finished characters."""
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]

    def from_bytes(ids):
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    turn = written(text, range(len(pieces)))
    done = [len(data[:place].decode(errors="ignore")) for place in places]
    expected = [(a, max(b, a + 1)) for a, b in pairwise(done)]
    assert token_spans(turn, from_bytes) == expected


def test_spans_are_a_tokenizer_s_own_offsets_where_it_has_them():
    lines = [WORLD.solution(task.question) for task in WORLD.tasks(200, seed=0)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    for text in lines[:20]:
        encoded = bpe.encode(text)
        assert token_spans(written(text, encoded.ids), bpe.decode) == encoded.offsets
        assert len(encoded.ids) < len(text)  # tokens of several characters


@given(st.text("ab;", max_size=30), st.integers(1, 6) | st.none(), st.integers(1, 4))
def test_marks_are_spread_so_that_they_sum_to_their_mean(text, fault, width):
    told = marks(text, fault, ";")
    spans = [(at, min(at + width, len(text))) for at in range(0, len(text), width)]
    spans.append((len(text), len(text) + 1))
    earned = spread(told, spans) if told else None
    if not told or earned is None:
        return
    mean = sum(1 if mark.right else -1 for mark in told) / len(told)
    assert sum(earned) == pytest.approx(mean)
    judged = max(mark.end for mark in told)
    assert not any(r for r, (start, _) in zip(earned, spans, strict=True) if start >= judged)


# The revision.


def test_a_refined_pair_is_the_revision_over_what_it_revises(said):
    episode = said((WRONG, 2), (RIGHT, None), ("7+5=12;9;99", 2, 0), (RIGHT, None, 0))
    (pair,) = compilers.refined(episode, prompt_of=prompt_of, flips=FLIPS)
    assert pair.replies == (RIGHT, WRONG)  # not the sample that was right at once
    assert [m.content for m in pair.prompt] == ["47+85"]
    assert pair.turns == (answer(3), critique(3), answer(0), critique(0))
    assert pair.flip_prob == pytest.approx(pair_flip(0.2, 0.1))


def test_a_revision_that_is_rejected_too_teaches_nothing(said):
    episode = said((WRONG, 2), ("7+5=12;9;99", 2, 0))
    assert compilers.refined(episode, prompt_of=prompt_of) == []
    assert compilers.conditioned(episode, prompt_of=prompt_of) == []


def test_a_conditioned_row_shows_answer_and_critique(said):
    episode = said((WRONG, 2), (RIGHT, None, 0))
    (row,) = compilers.conditioned(episode, prompt_of=prompt_of, flips=FLIPS)
    assert (row.kind, row.replies) == ("sft", (RIGHT,))
    assert [m.content for m in row.prompt] == ["47+85", WRONG, "2"]
    assert row.flip_prob == FLIPS.accepted
    assert row.turns == (answer(1), critique(1), answer(0), critique(0))


def test_of_equal_answers_each_has_its_own_revision(said):
    episode = said((WRONG, 2), (WRONG, 2), (RIGHT, None, 0), (RIGHT, None, 1))
    found = [(one.answer.key, one.revisions) for one in criticised(episode, "learner", prompt_of)]
    keys = [turn.key for turn in episode.by("learner")]
    assert [(key, [r.key for r in revised]) for key, revised in found] == [
        (keys[0], [keys[2]]),
        (keys[1], [keys[3]]),
        (keys[2], []),
        (keys[3], []),
    ]


def test_a_second_revision_revises_the_first(said):
    episode = said((WRONG, 2), ("7+5=12;9;99", 2, 0), (RIGHT, None, 1))
    (pair,) = compilers.refined(episode, prompt_of=prompt_of)
    assert pair.replies == (RIGHT, "7+5=12;9;99")
    assert [m.content for m in pair.prompt] == ["47+85", WRONG, "2"]


def test_a_revision_is_found_in_a_chat_prompt(said):
    episode = said(("14", 1), ("4", 1), ("5", None))
    shown = view("learner", Question(text="2+2"), None, Ask("answer", episode.turns[2:4]))
    prompts = {episode.turns[4].key: chat.render(shown, 0)}  # the last answer revises the second

    def chatted(turn):
        return prompts.get(turn.key, (Message(role="user", content="2+2"),))

    ones = list(criticised(episode, "learner", chatted))
    assert [[r.text for r in one.revisions] for one in ones] == [[], ["5"], []]


# The rubric.


def test_a_rubric_is_the_share_of_lines_that_are_right(said):
    episode = said(("7+5=12;4+8=12;122", 2), (RIGHT, None), ("9;9;9", 1))
    found = compilers.rubric(episode, prompt_of=prompt_of, separator=";", flips=FLIPS)
    ranking, *graded = found
    assert (ranking.kind, ranking.replies) == ("rank", (RIGHT, "7+5=12;4+8=12;122", "9;9;9"))
    assert ranking.rewards == (1.0, 0.5, 0.0)
    assert [row.rewards for row in graded] == [(0.5,), (1.0,), (0.0,)]
    assert graded[0].turns == (answer(0), critique(0))


def test_a_line_that_is_not_there_gets_no_grade(said):
    found = compilers.rubric(said((WRONG, 9), (RIGHT, None)), prompt_of=prompt_of, separator=";")
    assert [(row.kind, row.replies) for row in found] == [("reward", (RIGHT,))]


# The controls, and what all leave out.


def test_without_a_critic_all_answers_teach_alike(said):
    episode = said((WRONG, 2), (RIGHT, None), (WRONG, 2), (RIGHT, None, 0))
    found = compilers.uncriticised(episode, prompt_of=prompt_of)
    assert [row.replies for row in found] == [(WRONG,), (RIGHT,), (WRONG,)]  # no revision
    assert {(row.flip_prob, row.judge) for row in found} == {(0.5, "learner@1")}
    assert found[0].turns == (answer(0),)
    silent = episode.model_copy(update={"critiques": ()})
    assert compilers.uncriticised(silent, prompt_of=prompt_of) == found


def test_a_leaked_answer_trains_controls_only(said):
    episode = said((WRONG, 2), (RIGHT, None, 0))
    with pytest.raises(BadInput, match="control"):
        compilers.leaked(episode, prompt_of=prompt_of)
    (row,) = compilers.leaked(episode, prompt_of=prompt_of, control=True)
    assert (row.replies, row.source) == (("132",), "oracle")
    unknown = episode.model_copy(update={"truth": None})
    assert compilers.leaked(unknown, prompt_of=prompt_of, control=True) == []


EVERY = {
    "scalar": compilers.scalar,
    "tokens": partial(compilers.tokens, decode=letters, separator=";"),
    "refined": compilers.refined,
    "conditioned": compilers.conditioned,
    "rubric": partial(compilers.rubric, separator=";"),
    "uncriticised": compilers.uncriticised,
    "leaked": partial(compilers.leaked, control=True),
}


@pytest.mark.parametrize("name", EVERY)
def test_failed_and_invalid_episodes_and_cut_answers_teach_nothing(said, name):
    answers, compiled = ((WRONG, 2), (RIGHT, None, 0)), EVERY[name]
    assert compiled(said(*answers), prompt_of=prompt_of)
    invalid = Verdict(value="invalid", seat="attacker")
    for fate in ({"status": "failed"}, {"verdict": invalid}):
        assert compiled(said(*answers, **fate), prompt_of=prompt_of) == []
    whole = said(*answers)
    cut = tuple(turn.model_copy(update={"finish": "length"}) for turn in whole.turns)
    assert compiled(whole.model_copy(update={"turns": cut}), prompt_of=prompt_of) == []


@pytest.mark.parametrize("name", ["scalar", "tokens", "refined", "conditioned", "rubric"])
def test_an_oracle_s_critique_is_refused(said, name):
    episode = said((WRONG, 2), (RIGHT, None, 0))
    turns = tuple(
        turn.model_copy(update={"source": "oracle"}) if turn.seat == "critic" else turn
        for turn in episode.turns
    )
    with pytest.raises(BadInput, match="control"):
        EVERY[name](episode.model_copy(update={"turns": turns}), prompt_of=prompt_of)


@pytest.mark.parametrize("name", EVERY)
def test_compiling_again_gives_the_same_rows(said, name):
    episode = said((WRONG, 2), (WRONG, 2), (RIGHT, None, 0), (RIGHT, None, 1))
    first, again = (EVERY[name](episode, prompt_of=prompt_of) for _ in range(2))
    assert [row.id for row in first] == [row.id for row in again]
    assert len({row.id for row in first}) == len(first)


# A real run.


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Episodes of the shipped organism, and the messages that its seats were given."""
    small = ("iterations=1", "episodes=24", "protocol.samples=2", "evaluate=null", "learn=null")
    overrides = (*small, "labels.human=null", "cast.learner.learn=false")
    facts, _ = run_scenario(SCENARIO, overrides, tmp_path_factory.mktemp("run"), None, False)
    with Store.open(Path(facts["store"])) as store:
        episodes = list(store.episodes(facts["run"]))
        shown = store.messages({key for e in episodes for t in e.turns for key in t.messages})
    return episodes, lambda turn: tuple(shown[key] for key in turn.messages)


def test_a_real_run_compiles(played):
    """Against the world: what the critic said of lines is on the tokens that wrote these lines."""
    episodes, shown = played
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM)
    told = {"prompt_of": shown, "decode": partial(decode, tokenizer), "separator": ";"}
    paid = [row for e in episodes for row in compilers.tokens(e, **told)]
    assert {row.rewards for row in paid} == {(0.0,), (1.0,)}
    for row in paid:
        (text,), ids, earned = row.replies, row.token_ids or (), row.token_rewards or ()
        assert list(ids) == encode_reply(tokenizer, text)  # a token a character, and the end
        wrong = [i for i, r in enumerate(earned) if r < 0]
        assert bool(wrong) == (row.rewards == (0.0,))
        if wrong:
            episode = next(e for e in episodes if row.turns[0].startswith(f"{e.ref}/"))
            fault = {f"{episode.ref}/{c.about}": c.fault for c in episode.critiques}[row.turns[0]]
            lines = f"{text};".split(";")
            assert wrong[0] == sum(len(line) + 1 for line in lines[: fault - 1])
            assert set(range(wrong[0], wrong[-1] + 1)) == set(wrong)


def test_in_a_real_run_revisions_are_found_and_follow_their_critique(played):
    episodes, shown = played
    pairs = [row for e in episodes for row in compilers.refined(e, prompt_of=shown)]
    taught = [row for e in episodes for row in compilers.conditioned(e, prompt_of=shown)]
    revised = [t for e in episodes for t in e.by("learner") if t.key.startswith("0004:revise")]
    assert 0 < len(pairs) <= len(revised)
    assert [pair.replies[0] for pair in pairs] == [row.replies[0] for row in taught]
    for pair, row in zip(pairs, taught, strict=True):
        question, answer, critique, asked = row.prompt
        assert (question.content, answer.content) == (pair.prompt[0].content, pair.replies[1])
        assert (critique.role, asked.role, asked.content) == ("critique", "answer", "")
        right = WORLD.solution(Question(text=question.content))
        assert int(critique.content) <= len(right.split(";")) + 1
