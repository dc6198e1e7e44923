"""The vllm engine on a real vLLM, on CPUs: `make test-vllm`. Each server takes half a minute."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from superalign.agents import Ask, Request, Sampling, View, tags
from superalign.agents.vllm_server import PYTHON, Adapters, VllmServer, interpreter
from superalign.learners import LEARNERS, learn_config
from superalign.scenarios.arithmetic import Arithmetic
from superalign.scenarios.resolve import ORGANISMS
from superalign.store import BadInput, Message, Question, Row, Store, StoreError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no Python with vLLM"),
]
ORGANISM = ORGANISMS / "arithmetic"
TASKS = Arithmetic().heldout(48)
SCENARIO = """
name: served
world: {{kind: arithmetic}}
models:
  tiny: {{engine: vllm, path: organism:arithmetic}}
protocol: {{name: critique, samples: 2}}
cast:
  attacker: {{model: tiny, max_tokens: 12}}
  learner: {{model: tiny, {learner}max_tokens: 40}}
  critic: {{model: tiny, temperature: 0.0, max_tokens: 4}}
episodes: {episodes}
{more}
"""
TITLES = (b"api_server", b"VLLM::EngineCore", b"VLLM::Worker")
"""vLLM's three processes, as they call themselves."""
COMMAND = [sys.executable, "-c", "from superalign.scenarios.cli import main; main()", "run"]


def write(episodes: int, learner: str = "", more: str = "") -> Path:
    path = Path("served.yaml")
    path.write_text(SCENARIO.format(episodes=episodes, learner=learner, more=more))
    return path


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="question", content=text), Message(role="answer", content=""))


def adapter(out: Path, reply: str) -> Path:
    """A version that has learnt to say one thing."""
    told = {"source": "ai", "judge": "critic", "turns": (), "rewards": None, "seat": "learner"}
    rows = [
        Row(kind="sft", prompt=asked(task.question.text), replies=(reply,), **told)
        for task in TASKS[:16]
    ]
    config = learn_config({"method": "sft", "lora": 4, "steps": 12, "lr": 0.01, "batch": 16})
    LEARNERS["sft"](ORGANISM, rows, config, out)
    return out


async def said(model, policy: str, temperature: float = 0.0, seed: int = 0):
    """What a version answers to all tasks."""
    view = View("learner", Question(), None, Ask("answer"))
    sampling = Sampling(temperature=temperature, max_tokens=40)
    calls = (
        model.generate(Request(asked(t.question.text), sampling, seed, policy, view, "e", 0))
        for t in TASKS
    )
    return await asyncio.gather(*calls)


def servers(log: Path, title: bytes = b"") -> list[int]:
    """Processes of servers that write into a log: the shells, vLLM's three, their helper."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            writes = (process / "fd" / "1").readlink() == log
            words = (process / "cmdline").read_bytes()
            if writes and title in words and (not title or not words.startswith(b"sh\0")):
                found.append(int(process.name))
    return found


def wait_until(found, seconds: float):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


@pytest.fixture
def log(monkeypatch, tmp_path):
    """Where the first run's server writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "served-1" / "vllm-tiny.log"


async def test_base_and_adapters_say_token_for_token_what_they_say_in_process(tmp_path):
    from superalign.agents.transformers_engine import TransformersModel
    from superalign.agents.vllm_engine import VllmModel

    assert interpreter().is_cpu
    folders = {
        "learner-1": adapter(tmp_path / "a", "1;2"),
        "critic-1": adapter(tmp_path / "b", "7"),
    }
    server = VllmServer(ORGANISM, tmp_path / "log", interpreter(), adapters=Adapters(2, 4))
    served, here = VllmModel("tiny", server, tags), TransformersModel("tiny", ORGANISM, tags)
    try:
        for name, folder in folders.items():
            served.load(name, folder)
            here.load(name, folder)
        texts = {}
        for policy in ("tiny", *folders):
            ours, theirs = await asyncio.gather(said(served, policy), said(here, policy))
            assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]
            for one, other in zip(ours, theirs, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
                assert (one.text, one.finish) == (other.text, other.finish)
            texts[policy] = [one.text for one in ours]
        right = [
            t.target == text.split(";")[-1] for t, text in zip(TASKS, texts["tiny"], strict=True)
        ]
        assert sum(right) > 0.4 * len(right)
        assert Counter(texts["learner-1"]).most_common(1)[0][0] == "1;2"
        assert Counter(texts["critic-1"]).most_common(1)[0][0] == "7"
        drawn = [[d.text for d in await said(served, "tiny", 1.5, seed)] for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        # natural log-probabilities, however the token was drawn
        one = (await said(served, "tiny", 1.5, 1))[0]
        assert sum(one.logprobs) < 0
    finally:
        await served.close()
        await here.close()


def test_one_word_changes_the_engine_and_greedy_transcripts_stay(superalign, log):
    path, found = write(24), {}
    greedy = [f"cast.{seat}.temperature=0.0" for seat in ("attacker", "learner", "critic")]
    for number, engine in enumerate(("vllm", "transformers"), 1):
        words = [w for key in (*greedy, f"models.tiny.engine={engine}") for w in ("--set", key)]
        code, out, err = superalign("run", path, "--json", *words)
        assert code == 0 and json.loads(out)["failed"] == 0, err
        with Store.open(f"runs/served-{number}/store.sqlite") as store:
            found[engine] = list(store.episodes(f"served-{number}"))
    pairs = list(zip(found["vllm"], found["transformers"], strict=True))
    for ours, theirs in pairs:
        assert [t.messages for t in ours.turns] == [t.messages for t in theirs.turns]
        assert [t.token_ids for t in ours.turns] == [t.token_ids for t in theirs.turns]
        assert ours.verdict and theirs.verdict and ours.verdict.value == theirs.verdict.value
        for one, other in zip(ours.turns, theirs.turns, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    assert superalign("replay", "served-1", "--json")[0] == 0
    assert not servers(log)


def test_a_learner_has_the_memory_and_its_versions_come_back_as_adapters(superalign, log):
    learn = "learn: {method: sft, lora: 8, lr: 1e-3, steps: 8, batch: 16}\n"
    more = learn + "iterations: 2\nevaluate: {heldout: 60}\n"
    more += "labels: {control: oracle}"
    path = write(36, "learn: true, ", more)
    code, _, err = superalign("run", path, "--json")
    assert code == 0, err
    told = log.read_text()
    starts = len(re.findall("a vllm server of arithmetic starts", err))
    assert starts == 3  # at first, and after each update
    assert [f for f in ("learner-1", "learner-2") if f"Loaded new LoRA adapter: name '{f}'" in told]
    with Store.open("runs/served-1/store.sqlite") as store:
        policies = {
            t.policy for e in store.episodes("served-1", iteration=2) for t in e.by("learner")
        }
        tested = {i: store.evaluations("served-1", i) for i in range(3)}
    assert policies == {"learner-1"}
    assert [len(found) for found in tested.values()] == [60] * 3
    assert {one.policy for one in tested[2]} == {"learner-2"}
    assert [one.text for one in tested[0]] != [one.text for one in tested[2]]
    assert not servers(log)


def ended() -> int:
    """How many episodes the first run has stored."""
    with suppress(StoreError, BadInput), Store.open("runs/served-1/store.sqlite") as store:
        return store.count("served-1")
    return 0


def test_five_kills_lose_and_double_nothing(log):
    n, rng, killed = 400, random.Random(11), 0
    with subprocess.Popen([*COMMAND, write(n), "--json"], stdout=-1, stderr=-1, text=True) as run:
        for title in (*TITLES, *TITLES)[:5]:
            before = ended()
            wait_until(lambda before=before: ended() > before or run.poll() is not None, 300)
            time.sleep(rng.random() * 2)
            victims = servers(log, title) if run.poll() is None else []
            for victim in victims[:1]:
                all_of_it = set(servers(log))
                os.kill(victim, signal.SIGKILL)
                killed += 1
                wait_until(lambda gone=all_of_it: not gone & set(servers(log)), 60)
        out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    assert killed == 5 and json.loads(out)["failed"] == 0
    with Store.open("runs/served-1/store.sqlite") as store:
        episodes = list(store.episodes("served-1"))
    assert sorted(e.index for e in episodes) == list(range(n))
    assert {e.status for e in episodes} == {"done"}
    turns = [turn for e in episodes for turn in e.turns]
    statuses = Counter(a.status for turn in turns for a in turn.attempts)
    assert statuses["200"] == len(turns) and sum(statuses.values()) > len(turns)
    assert not servers(log)


def test_no_process_outlives_superalign(log):
    with subprocess.Popen([*COMMAND, write(5000)], stdout=-3, stderr=-3) as run:
        wait_until(lambda: len(servers(log)) >= 4, 300)
        run.kill()
    wait_until(lambda: not servers(log), 30)
