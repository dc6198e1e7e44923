"""The vllm engine with a stand-in for vLLM: words, deaths, hangs, adapters, and that none is left.

The real one is in test_vllm.py.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from superalign.agents import Ask, Request, Sampling, View, endpoint, tags, vllm_server
from superalign.agents.vllm_engine import VllmModel
from superalign.agents.vllm_server import PYTHON, Adapters, VllmServer, interpreter
from superalign.learners import LEARNERS, learn_config
from superalign.scenarios.resolve import ORGANISMS
from superalign.store import BadInput, Message, ModelError, Question, Row, Store

HERE = Path(__file__).parent
ORGANISM = ORGANISMS / "arithmetic"
ASKED = (Message(role="question", content="2+2"), Message(role="answer", content=""))
SCENARIO = """
name: served
world: {{kind: arithmetic}}
models:
  tiny: {{engine: vllm, path: organism:arithmetic{model}}}
  other: {{engine: vllm, path: organism:arithmetic{model}}}
  asker: {{engine: scripted, replies: ["23+14"]}}
protocol: {{name: critique, samples: 2, revisions: 0}}
cast:
  attacker: {{model: asker}}
  learner: {{model: tiny{learner}}}
  critic: {{model: other}}
episodes: {episodes}
limits: {{failed_share: 1.0}}
{more}
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    """The interpreter in which the stand-in is installed."""
    monkeypatch.setenv(PYTHON, str(HERE / "fake_vllm" / "python"))
    monkeypatch.setenv("FAKE_PYTHON", sys.executable)
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(endpoint, "PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)


def notes(first: str | None = None) -> list[list[str]]:
    """What the stand-in has noted, in order."""
    path = Path(os.environ["FAKE_NOTES"])
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if first in (None, line[0])]


def newest() -> int:
    """The process of the last server."""
    return int(notes("start")[-1][1])


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(found, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def write(episodes: int = 4, model: str = "", learner: str = "", more: str = "") -> str:
    told = {"episodes": episodes, "model": model, "learner": learner, "more": more}
    Path("served.yaml").write_text(SCENARIO.format(**told))
    return "served.yaml"


def request(policy: str = "tiny", seed: int = 1, tokens: int = 8) -> Request:
    view = View("learner", Question(), None, Ask("answer"))
    return Request(ASKED, Sampling(max_tokens=tokens), seed, policy, view, "e", 0)


@pytest.fixture
async def served(tmp_path):
    """`served(room for adapters)` -> a server and its model."""
    opened = []

    def build(adapters: Adapters | None = None) -> tuple[VllmServer, VllmModel]:
        server = VllmServer(ORGANISM, tmp_path / "vllm.log", interpreter(), adapters=adapters)
        opened.append(server)
        return server, VllmModel("tiny", server, tags)

    yield build
    for server in opened:
        await server.close()


# Which interpreter.


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, "no Python with vLLM is known; set SUPERALIGN_VLLM_PYTHON"),
        (sys.executable, "has no vLLM; install it there"),
        ("/nowhere/python", "'/nowhere/python' cannot be run"),
    ],
)
def test_without_vllm_a_run_is_refused(superalign, monkeypatch, named, message):
    if named is None:
        monkeypatch.delenv(PYTHON)
    else:
        monkeypatch.setenv(PYTHON, named)
    code, _, err = superalign("run", write())
    assert code == 2 and not Path("runs/served-1").exists()
    assert "served.yaml:5:10: models.tiny.engine: " in err and message in err


def test_an_interpreter_says_whether_its_vllm_is_built_for_cpus():
    assert not interpreter().is_cpu  # the stand-in is no distribution


# Words.


def test_versions_that_are_whole_models_are_refused(superalign):
    more = "learn: {method: sft}\nlabels: {human: {budget: 1}}"
    code, _, err = superalign("check", write(learner=", learn: true", more=more))
    assert code == 2 and "learn: vllm plays versions that are adapters; add `lora: 16`" in err


def test_a_rank_beyond_what_vllm_takes_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"learn.lora: 513: vllm takes a rank of 512 at most"):
        VllmServer(ORGANISM, tmp_path / "log", interpreter(), adapters=Adapters(1, 513))


def test_no_sampling_but_the_seats_and_nothing_that_runs_code(tmp_path):
    words = VllmServer(ORGANISM, tmp_path / "log", interpreter(), context=99)._command
    told = dict(pairwise(words))
    assert told["--generation-config"] == "vllm" and told["--load-format"] == "safetensors"
    assert told["--max-model-len"] == "99" and "--trust-remote-code" not in words
    assert "--port" not in words and Path(told["--uds"]).parent.stat().st_mode & 0o77 == 0


# Runs.


def test_a_run_stores_tokens_and_attempts_and_leaves_no_server(superalign):
    code, out, err = superalign("run", write(6), "--json")
    assert code == 0, err
    assert json.loads(out)["episodes"] == 6
    assert len(notes("start")) == 1  # for both models
    assert not lives(newest())
    with Store.open("runs/served-1/store.sqlite") as store:
        turns = [t for e in store.episodes("served-1") for t in e.turns if t.policy != "asker"]
        assert [version.path for version in store.versions("served-1")] == [str(ORGANISM)] * 2
    for turn in turns:
        assert turn.token_ids and turn.logprobs and len(turn.token_ids) == len(turn.logprobs)
        assert [attempt.status for attempt in turn.attempts] == ["200"]
    assert len(notes("said")) == len(turns) + 1  # and the first token
    assert Path("runs/served-1/vllm-tiny.log").exists()
    assert superalign("replay", "served-1", "--json")[0] == 0
    assert len(notes("start")) == 1


def test_a_server_that_cannot_start_ends_the_run_with_its_own_words(superalign, monkeypatch):
    monkeypatch.setenv("FAKE_DIES", "1")
    code, _, err = superalign("run", write())
    assert code == 2 and len(notes("start")) == 1
    assert "models.tiny: the vllm server of arithmetic ended" in err
    assert "ValueError: no room for the weights" in err and "vllm-tiny.log" in err


def test_every_death_is_survived_and_no_episode_is_lost_or_doubled(monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    path, deaths, rng = write(50, model=", max_batch: 4"), 5, random.Random(7)
    command = [sys.executable, "-c", "from superalign.scenarios.cli import main; main()", "run"]
    with subprocess.Popen([*command, path, "--json"], stdout=-1, stderr=-1, text=True) as run:
        killed = 0
        while run.poll() is None and killed < deaths:
            said = len(notes("said")) + 3
            wait_until(lambda said=said: len(notes("said")) > said or run.poll() is not None, 90)
            time.sleep(rng.random() * 0.5)
            with suppress(ProcessLookupError):
                os.kill(newest(), signal.SIGKILL)
                killed += 1
        out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert killed == deaths and len(notes("start")) > deaths and not lives(newest())
    with Store.open("runs/served-1/store.sqlite") as store:
        episodes = list(store.episodes("served-1"))
        assert store.count("served-1", "failed") == json.loads(out)["failed"]
    assert sorted(e.index for e in episodes) == list(range(50))
    assert not [e.error for e in episodes if e.error and "vllm" in e.error]
    turns = [turn for e in episodes for turn in e.turns if turn.policy != "asker"]
    found = Counter(attempt.status for turn in turns for attempt in turn.attempts)
    assert found["200"] == len(turns) and found["cut"] + found["refused"] >= deaths
    assert found.keys() <= {"200", "cut", "refused"}


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_superalign(monkeypatch, sign):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    command = [sys.executable, "-c", "from superalign.scenarios.cli import main; main()", "run"]
    with subprocess.Popen([*command, write(500)], stdout=-3, stderr=-3) as run:
        wait_until(lambda: len(notes("said")) > 3)
        os.kill(run.pid, sign)
        run.wait(30)
    wait_until(lambda: not lives(newest()))
    assert run.returncode != 0 and len(notes("start")) == 1


# Deaths and hangs.


async def test_a_server_that_hangs_is_ended_and_started_again(served, monkeypatch):
    _, model = served()
    monkeypatch.setattr(vllm_server, "WATCH", 0.1)
    monkeypatch.setattr(vllm_server, "PROBE", 0.2)
    first = await model.generate(request())
    os.kill(newest(), signal.SIGUSR1)
    wait_until(lambda: notes("silent"))
    async with asyncio.timeout(30):
        again = await model.generate(request())
    assert again.token_ids == first.token_ids and len(notes("start")) == 2
    assert [attempt.status for attempt in again.attempts][-1] == "200" and len(again.attempts) > 1


async def test_a_call_that_ends_every_server_is_given_up_with_its_attempts(served, monkeypatch):
    server, model = served()
    monkeypatch.setattr(vllm_server, "DEATHS", 2)
    monkeypatch.setenv("FAKE_POISON", "1")  # the organism's prompts begin with it
    server._environ["FAKE_POISON"] = "1"
    with pytest.raises(ModelError, match="3 times without an answer") as given_up:
        await model.generate(request())
    assert len(given_up.value.attempts) >= 3 == len(notes("start"))
    with pytest.raises(ModelError, match="3 times without an answer"):
        await model.generate(request())  # and it is not started again
    assert len(notes("start")) == 3


async def test_it_rests_while_others_need_its_memory(served):
    server, model = served()
    first = await model.generate(request())
    pid = newest()
    await model.rest()
    assert not lives(pid) and not server.is_up
    assert (await model.generate(request())).token_ids == first.token_ids
    assert len(notes("start")) == 2


async def test_calls_that_come_at_once_start_one_server(served):
    _, model = served()
    said = await asyncio.gather(*(model.generate(request(seed=i)) for i in range(40)))
    assert len(notes("start")) == 1 and len({s.token_ids for s in said}) > 20


# Adapters.


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with an adapter over the organism."""
    out = tmp_path_factory.mktemp("adapter")
    told = {"source": "ai", "judge": "critic", "turns": ()}
    row = Row(kind="sft", seat="learner", prompt=ASKED, replies=("4",), rewards=None, **told)
    LEARNERS["sft"](ORGANISM, [row], learn_config({"method": "sft", "lora": 4, "steps": 1}), out)
    return out


async def test_versions_are_adapters_that_come_back_after_a_death(served, adapter):
    _, model = served(Adapters(2, 16))
    model.load("learner-1", adapter)
    base, version = [await model.generate(request(name)) for name in ("tiny", "learner-1")]
    assert base.token_ids != version.token_ids
    os.kill(newest(), signal.SIGKILL)
    again = await model.generate(request("learner-1"))
    assert again.token_ids == version.token_ids
    model.load("learner-2", adapter)
    model.unload("learner-1")
    await model.generate(request("learner-2"))
    with pytest.raises(ValueError, match="tiny has no version 'learner-1', only tiny, learner-2"):
        await model.generate(request("learner-1"))
    told = [line for line in notes() if line[0] in ("start", "load", "unload")]
    assert [line[0] for line in told] == ["start", "load", "start", "load", "unload", "load"]
    assert "--enable-lora" in told[0]


async def test_a_version_that_kept_its_base_is_the_base(served):
    _, model = served()
    model.load("learner-1", ORGANISM)
    base, kept = [await model.generate(request(name)) for name in ("tiny", "learner-1")]
    assert base.token_ids == kept.token_ids and not notes("load")


async def test_what_is_no_adapter_over_the_base_is_refused(served, adapter, base):
    _, model = served(Adapters(1, 2))
    with pytest.raises(BadInput, match=r"is no adapter over .*learn.lora"):
        model.load("learner-1", base)
    with pytest.raises(BadInput, match=r"r: 4, but the server was started for 2; .*`learn.lora`"):
        model.load("learner-1", adapter)


async def test_an_adapter_that_the_server_refuses_says_so(served, adapter, tmp_path):
    server, model = served(Adapters(1, 8))
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    server.load("learner-1", gone)
    with pytest.raises(ModelError, match=r"load_lora_adapter of learner-1: .*No adapter"):
        await model.generate(request())


async def test_a_prompt_without_room_fails_as_in_process(served):
    _, model = served()
    with pytest.raises(ValueError, match=r"max_tokens 500 exceed the 256 positions of tiny"):
        await model.generate(request(tokens=500))
    assert not notes("said")
