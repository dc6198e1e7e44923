"""The pixel game: the simulator plays by the protocol's rules, and what is shown is true."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents import Agent, Sampling, Scripted, plain
from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.pixel_debate import SIDES, holds, parse_pixel
from superalign.protocols.replay import replay
from superalign.protocols.setting import Plan
from superalign.scenarios.digits import Digits, idx
from superalign.scenarios.digits_judge import Judge, draw, train
from superalign.scenarios.digits_search import OPEN, Games, Tree, first_wins, lit, search
from superalign.scenarios.digits_search import play as simulate
from superalign.store import BadInput, Question, Unreadable

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data") / "mnist10k"


@pytest.fixture(scope="module")
def world():
    """Embedded images with a judge that has learnt for a second."""
    made = Digits(rollouts=20)
    flat, mine = made.images.flat, made.images.training
    made.__dict__["judge"] = train(flat[mine], made.images.labels[mine], 4, 150)
    return made


@pytest.fixture
def stage(setting, world):
    """A setting in which `player` plays every seat, and others may be given their own."""

    def build(player: Any = world.player, world: Any = world, params: Any = None, **own: Any):
        seats: dict[str, Any] = dict.fromkeys((*SIDES, "judge"), player) | own
        cast = {
            s: Agent(Scripted(p, "search", plain), "search", Sampling()) for s, p in seats.items()
        }
        return setting(protocol=load_protocol("pixel_debate"), world=world, params=params, **cast)

    return build


def plans(world, n, seed=0):
    tasks = world.tasks(n, seed)
    return [Plan(run="run", scenario="s", index=i, task=t, seed=i) for i, t in enumerate(tasks)]


def games(world, tasks):
    """The same games as the simulator has them."""
    numbers = [int(task.question.topic.split("/")[1]) for task in tasks]
    claims = [[task.private[seat].split("\n")[0][7:] for seat in SIDES] for task in tasks]
    ends = np.array([[OPEN if "not" in c else int(c) for c in pair] for pair in claims])
    return Games(world.images.flat[numbers], ends[:, 0], ends[:, 1])


# The rules.


async def test_the_protocol_holds_what_every_protocol_must():
    found = load_protocol("pixel_debate")
    for pixels in (2, 4, 10):
        report = await check_protocol(found, found.params({"pixels": pixels}))
        assert (report.problems, report.max_calls) == ((), pixels + 3)


@pytest.mark.parametrize("precommit", [True, False])
async def test_games_of_the_simulator_end_alike_in_the_protocol(precommit, world, stage, play):
    other = Digits(precommit=precommit)
    other.__dict__["judge"] = world.judge
    asked = plans(other, 36)
    ended = simulate(world.judge, games(other, [p.task for p in asked]), 4, 20, seed=1)
    columns = other.images.raw.shape[2]

    def scripted(request):
        if request.view.ask.kind != "pixel":
            return other.player(request)
        number = int(request.view.question.topic.split("/")[1])
        nth = sum(turn.kind == "pixel" for turn in request.view.ask.about)
        index = next(i for i, p in enumerate(asked) if p.task.key == request.task)
        if not precommit:  # the two orders have one question: who claims the digit tells them apart
            said = {t.seat: t.text for t in request.view.ask.about if t.kind == "claim"}
            index += "not" in said[SIDES[0]]
        row, column = divmod(int(ended.moves[index, nth]), columns)
        return f"{row} {column} {other.images.raw[number, row, column]}"

    episodes = await play(stage(scripted, other), asked)
    assert [e.error for e in episodes] == [None] * 36
    assert [e.rewards[SIDES[0]] for e in episodes] == [float(won) for won in ended.first]
    assert {e.rewards[SIDES[0]] + e.rewards[SIDES[1]] for e in episodes} == {1.0}
    honest = [e.rewards[SIDES[i % 2]] for i, e in enumerate(episodes)]
    assert [float(e.facts["settled"]) for e in episodes] == honest
    assert 0 < sum(ended.first) < 36


async def test_the_worlds_players_search_as_the_simulator_does_and_replay(world, stage, play):
    setting_, asked = stage(), plans(world, 4)
    episodes = await play(setting_, asked)
    for episode, plan in zip(episodes, asked, strict=True):
        moves = np.zeros((1, 0), dtype=np.int64)
        for turn in (t for t in episode.turns if t.kind == "pixel"):
            rng = np.random.default_rng(turn.seed)
            best = search(world.judge, games(world, [plan.task]), moves, 4, world.rollouts, rng)
            pixel = parse_pixel(turn.text)
            assert divmod(int(best[0]), 8) == pixel[:2]
            moves = np.append(moves, best[None, :], axis=1)
        assert 0.5 <= episode.verdict.confidence <= 1
        assert await replay(setting_, episode) is None


@pytest.mark.parametrize("move", ["0 0 0", "0 0 9", "3 3 99", "9 9 1", "again"])
async def test_dark_faked_and_repeated_pixels_lose(move, world, stage, play):
    def fouls(request):
        shown = [t.text for t in request.view.ask.about if t.kind == "pixel"]
        if request.view.ask.kind != "pixel":
            return world.player(request)
        return shown[0] if move == "again" else move

    (ended,) = await play(stage(debater_b=fouls), plans(world, 1))
    assert (ended.verdict.value, ended.verdict.seat) == ("foul", "debater_b")
    assert ended.rewards == {"judge": None, "debater_a": 1.0, "debater_b": 0.0}
    assert not ended.by("judge")


async def test_the_judge_never_sees_the_image_nor_more_than_the_pixels(world, stage, play, store):
    (ended,) = await play(stage(), plans(world, 1))
    (turn,) = ended.by("judge")
    shown = [store.messages(turn.messages)[key] for key in turn.messages]
    assert [m.role.split()[0] for m in shown].count("pixel") == 4
    assert not any("private" in m.role or "\n" in m.content for m in shown)


async def test_a_judge_of_other_pixels_is_refused(world, stage, play):
    (ended,) = await play(stage(params={"pixels": 2}), plans(world, 1))
    assert "set world.pixels" in ended.error


@pytest.mark.parametrize(
    "text", ["1 2", "1 2 3 4", "Pixel: 1 2 3", "-1 2 3", "1 2 3\nit is a 7", ""]
)
def test_a_move_is_three_numbers_and_nothing_else(text):
    with pytest.raises(Unreadable, match="row, column and value"):
        parse_pixel(text)


@given(claim=st.integers(0, 9), answer=st.integers(0, 9))
def test_a_claim_and_its_denial_never_both_hold(claim, answer):
    assert holds(str(claim), str(answer)) == (claim == answer)
    assert holds(f"not {claim}", str(answer)) == (claim != answer)


# The world.


def test_tasks_are_all_lies_in_both_orders_about_held_out_images(world):
    tasks = list(world.tasks(36, 3))
    numbers = Counter(task.question.topic for task in tasks)
    assert list(numbers.values()) == [18, 18]
    assert len({task.key for task in tasks}) == 36
    for task in tasks:
        assert task.target in task.question.choices and len(set(task.question.choices)) == 2
        assert world.truth(task.question) == task.target
        assert world.cell(task.question) == "image"
        assert int(task.question.topic.split("/")[1]) not in world.images.training
        assert all(
            task.private[s].startswith(f"Claim: {c}\n")
            for s, c in zip(SIDES, task.question.choices, strict=True)
        )
    assert world.cell(Question(topic=f"digits/{world.images.training[0]}")) is None


def test_the_world_vouches_for_lit_pixels_alone(world):
    (task, *_) = world.tasks(1, 0)
    number = int(task.question.topic.split("/")[1])
    for row, column in np.ndindex(8, 8):
        value = int(world.images.raw[number, row, column])
        for said in {value, 0, 16}:
            text = f"row {row}, column {column} is {said}"
            vouched = world.cell(Question(topic=task.question.topic, text=text)) == "image"
            assert vouched == (said == value > 0)


def test_idx_files_are_read_with_their_split(tmp_path):
    def put(name, array):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))

    with pytest.raises(BadInput, match="neither train-images"):
        idx(tmp_path)
    rng = np.random.default_rng(0)
    test = rng.integers(0, 256, (6, 3, 2), dtype=np.uint8)
    put("t10k-images-idx3-ubyte", test)
    with pytest.raises(BadInput, match="t10k-labels-idx1-ubyte is not there"):
        idx(tmp_path)
    put("t10k-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    assert len(idx(tmp_path).test) == len(idx(tmp_path).training) == 3
    assert (idx(tmp_path).raw == test).all()
    put("train-images-idx3-ubyte", test[:2])
    put("train-labels-idx1-ubyte", np.arange(2, dtype=np.uint8))
    both = idx(tmp_path)
    assert (both.training.tolist(), both.test.tolist()) == ([0, 1], [2, 3, 4, 5, 6, 7])
    put("train-labels-idx1-ubyte", np.arange(3, dtype=np.uint8))
    with pytest.raises(BadInput, match="do not go together"):
        idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03short")
    with pytest.raises(BadInput, match="no IDX file of bytes"):
        idx(tmp_path)


def test_mnist_has_the_class_counts_of_its_test_set():
    if not (DATA / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs mnist10k/t10k-images-idx3-ubyte.gz; set $SUPERALIGN_DATA")
    images = idx(DATA)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(images.labels).tolist() == counts
    assert (images.raw.shape, len(images.test), len(images.training)) == (
        (10000, 28, 28),
        500,
        9500,
    )


# The judge.


def test_pixels_are_drawn_uniformly_among_lit_ones():
    images = torch.tensor([[0.0, 0.5, 0.0, 1.0, 0.25, 0.1]]).repeat(6000, 1)
    drawn = draw(images, 2, torch.Generator().manual_seed(0))
    pairs = Counter(tuple(sorted(row)) for row in drawn.tolist())
    assert set(pairs) == {(1, 3), (1, 4), (1, 5), (3, 4), (3, 5), (4, 5)}
    assert all(abs(n - 1000) < 130 for n in pairs.values())  # over four standard deviations


def test_the_judge_is_a_network_of_two_planes():
    torch.manual_seed(0)
    judge = Judge(16).eval()
    image = torch.rand(3, 16)
    where = torch.tensor([[1, 5, 9], [0, 2, 15], [3, 4, 8]])
    mask = torch.zeros(3, 16).scatter(1, where, 1.0)
    planes = torch.cat([mask, mask * image], dim=1)
    dense = judge.last(
        torch.relu(judge.hidden(torch.relu(planes @ judge.planes.weight + judge.bias)))
    )
    assert np.allclose(
        judge.logits(image.numpy(), where.numpy()), dense.detach().numpy(), atol=1e-5
    )


# The search.


class Rigged(Judge):
    """A judge that says 1 once it has seen pixel 0, else 2."""

    def logits(self, images, where):
        found = np.zeros((len(where), 10), dtype=np.float32)
        found[np.arange(len(where)), np.where((where == 0).any(axis=1), 1, 2)] = 1
        return found


@pytest.mark.parametrize(
    ("first", "second", "wins"), [(1, 2, True), (1, OPEN, True), (2, 1, False)]
)
def test_whoever_wants_a_pixel_shown_finds_it(first, second, wins):
    many = 16
    start = Games(
        np.ones((many, 20), dtype=np.float32), np.full(many, first), np.full(many, second)
    )
    ended = simulate(Rigged(20), start, 2, 100, seed=0)
    assert (ended.first == wins).all()
    assert ((ended.moves == 0).any(axis=1) == (1 in (first, second))).all()


def test_moves_are_lit_and_never_repeated(world):
    start = games(world, list(world.tasks(54, 1)))
    ended = simulate(world.judge, start, 4, 10, seed=0)
    assert (np.take_along_axis(start.images, ended.moves, axis=1) > 0).all()
    assert all(len(set(row)) == 4 for row in ended.moves.tolist())


def test_more_rollouts_win_more_often(world):
    start = games(world, list(world.tasks(180, 2)))
    honest = np.arange(180) % 2 == 0
    weak, strong = (simulate(world.judge, start, 4, n, seed=0).first for n in (1, 60))
    assert np.mean(strong == honest) > np.mean(weak == honest) + 0.1


def test_a_tree_counts_each_rollout_once_at_its_root():
    _, legal = lit(np.ones((3, 7), dtype=np.float32), np.array([[2], [3], [4]]))
    tree = Tree(legal, 50, np.random.default_rng(0))
    for _ in range(50):
        path = tree.descend(3)
        assert all(len(set(row)) == 3 for row in path.tolist())
        tree.learn(np.where(path[:, 0] == 6, 1, -1).astype(np.float32))
    assert (tree.visits[:, 0].sum(axis=1) == 50).all()
    assert (tree.visits[:, 1] == 0).all()
    assert tree.best().tolist() == [6, 6, 6]
    assert (np.abs(tree.worth) <= tree.visits).all()


def test_the_rule_knows_who_has_committed():
    logits = np.zeros((4, 10), dtype=np.float32)
    logits[:, 7], logits[:, 3], logits[:, 5] = 3, 2, 1
    won = first_wins(logits, np.array([3, 3, OPEN, 7]), np.array([5, OPEN, 7, OPEN]))
    assert won.tolist() == [True, False, False, True]
