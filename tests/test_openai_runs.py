"""Scenarios on an endpoint: whole runs through the command line, with a server on this machine."""

import json
import random
import re
import runpy
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from superalign.agents import endpoint
from superalign.protocols.stage import said
from superalign.scenarios.viewer import create_app
from superalign.store import Store

FAKE = runpy.run_path(str(Path(__file__).parent / "fake_server.py"))
FakeServer, FAULTS = FAKE["FakeServer"], FAKE["FAULTS"]
HOSTILE = runpy.run_path(str(Path(__file__).parent / "hostile.py"))
hostile, credulous, is_judge = (HOSTILE[name] for name in ("hostile", "credulous", "is_judge"))
KEY = "sk-planted-0123456789"
SEATS = {
    "debate": ("debater_a", "debater_b", "judge"),
    "open_debate": ("debater_a", "debater_b", "judge"),
    "consultancy": ("consultant", "judge"),
    "propaganda": ("consultant", "judge"),
    "blind": ("judge",),
    "vote": ("learner",),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(endpoint, "PAUSE", 0.01)
    monkeypatch.setenv("FAKE_KEY", KEY)
    monkeypatch.setenv("SUPERALIGN_ENDPOINTS", str(tmp_path / "endpoints.yaml"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server():
    with FakeServer() as opened:
        yield opened


@pytest.fixture
def scenario(server, tmp_path):
    """`scenario(protocol, n, model's keys…)` writes it beside sixty questions of two choices."""
    lines = ({"q": f"question {i}", "a": ["no", "yes"], "right": "yes"} for i in range(60))
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def write(protocol: str = "blind", n: int = 4, **model) -> str:
        columns = "{text: q, choices: a, target: right}"
        engine = {"engine": "openai", "model": "tiny", "timeout": 60.0, **model}
        if "endpoint" not in model:
            engine.setdefault("base_url", server.url)
        seats = "".join(f"  {seat}: {{model: big}}\n" for seat in SEATS[protocol])
        text = (
            f"name: served\nworld: {{kind: dataset, path: ./asked.jsonl, columns: {columns}}}\n"
            f"models:\n  big: {json.dumps(engine)}\n"
            f"protocol: {{name: {protocol}}}\ncast:\n{seats}episodes: {n}\n"
            "limits: {failed_share: 1.0}\n"
        )
        (tmp_path / "served.yaml").write_text(text)
        return "served.yaml"

    return write


def stored(run: str = "served-1") -> Any:
    """Its episodes, versions and run."""
    with Store.open(Path("runs") / run / "store.sqlite") as store:
        return list(store.episodes(run)), store.versions(run), store.run(run)


def attempts_of(run: str = "served-1") -> int:
    """Every attempt that the store holds: of turns, and of the probe."""
    episodes, versions, _ = stored(run)
    probes = sum(len(v.config["abilities"]["attempts"]) for v in versions)
    return probes + sum(len(turn.attempts) for e in episodes for turn in e.turns)


def test_a_run_is_played_replayed_and_priced(superalign, scenario, server):
    path = scenario(price={"input": 1.0, "output": 10.0})
    code, out, err = superalign("run", path, "--json")
    assert code == 0, err
    facts = json.loads(out)
    episodes, (version,), _ = stored()
    assert (facts["failed"], facts["lacks"]) == (0, [])
    assert {e.verdict.value for e in episodes} == {"1"}
    assert {round(e.verdict.confidence, 6) for e in episodes} == {0.75}
    assert version.config["abilities"]["honours"] == ["seed", "logprobs", "json"]
    requests = len(server.completions)
    assert requests == 4 + 7  # and seven of the probe
    assert facts["price"] == pytest.approx(requests * (11 * 1.0 + 7 * 10.0) / 1e6)
    report = json.loads((Path("runs") / "served-1" / "report.json").read_text())
    assert report["spent"]["models"]["big"]["attempts"] == requests == attempts_of()
    assert f"in\n{requests} attempts" in (Path("runs") / "served-1" / "report.html").read_text()
    code, out, _ = superalign("replay", "served-1", "--json")
    assert (code, json.loads(out)["divergences"]) == (0, [])
    assert len(server.completions) == requests


def test_attempts_leave_and_return_with_the_run(superalign, scenario, server):
    server.fault = lambda n: "500" if n == 9 else None
    superalign("run", scenario())
    superalign("export", "served-1", "--to", "jsonl", "out.jsonl")
    code, _, err = superalign("import", "jsonl", "out.jsonl", "--store", "new.sqlite")
    assert code == 0, err
    with Store.open("new.sqlite") as store:
        assert list(store.episodes("served-1")) == stored()[0]


def test_every_fault_is_survived_and_every_attempt_is_stored(superalign, scenario, server):
    rng, kinds = random.Random(3), count()
    server.fault = lambda n: FAULTS[next(kinds) % len(FAULTS)] if rng.random() < 0.2 else None
    code, _, err = superalign("run", scenario("debate", 24, timeout=2.0), "--json")
    assert code == 0, err
    episodes, _, _ = stored()
    assert [e.status for e in episodes] == ["done"] * 24
    assert attempts_of() == len(server.completions)
    assert set(FAULTS) < set(server.faults)  # each has happened
    told = {a.status for e in episodes for t in e.turns for a in t.attempts}
    assert told == {"200", "429", "500", "timeout", "cut", "garbled", "empty"}


def test_a_run_that_goes_on_has_stored_what_it_asked_anew(superalign, scenario, server):
    path = scenario("debate", 6)
    server.fault = lambda n: "500" if n % 8 == 2 else None
    for more in ([], ["--resume"], ["--resume"]):
        code, out, err = superalign("run", path, "--json", *more)
        assert (code, json.loads(out)["run"]) == (0, "served-1"), err
        report = json.loads((Path("runs") / "served-1" / "report.json").read_text())
        assert report["spent"]["models"].keys() == {"big"}
        spent = report["spent"]["models"]["big"]["attempts"]
        assert spent == attempts_of() == len(server.completions)
    assert [version.id for version in stored()[1]] == ["big", "big@2", "big@3"]


def test_a_run_whose_calls_fail_keeps_why(superalign, scenario, server):
    server.fault = lambda n: "401" if n >= 7 else None
    _, out, _ = superalign("run", scenario(), "--json")
    assert json.loads(out)["failed"] == 4
    episodes, _, _ = stored()
    assert all("401" in e.error and e.turns[0].attempts[0].status == "401" for e in episodes)
    assert attempts_of() == len(server.completions)


def test_held_out_questions_are_counted_too(superalign, scenario, server):
    path = scenario("vote", 4, price={"input": 0.0, "output": 1.0})
    code, out, err = superalign("run", path, "--json", "--set", "evaluate={heldout: 5}")
    assert code == 0, err
    assert json.loads(out)["price"] == pytest.approx(len(server.completions) * 7 / 1e6)
    with Store.open("runs/served-1/store.sqlite") as store:
        tested = store.evaluations("served-1")
    assert [(e.tokens, len(e.attempts)) for e in tested] == [(7, 1)] * 5


def test_a_model_that_has_two_names_has_one_client(superalign, scenario, server):
    path = Path(scenario("consultancy"))
    twice = path.read_text().replace("consultant: {model: big}", "consultant: {model: more}")
    engine = next(line for line in twice.splitlines() if line.startswith("  big:"))
    path.write_text(twice.replace(engine, f"{engine}\n{engine.replace('big', 'more')}"))
    clients = []
    opened = endpoint.Endpoint.__init__

    def noted(self, *words, **more):
        clients.append(self)
        opened(self, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint.Endpoint, "__init__", noted)
        code, _, err = superalign("run", path)
    assert code == 0, err
    (only,) = clients
    assert only._client.is_closed()


# Reasoning.


def test_reasoning_is_stored_and_shown_to_nobody(superalign, scenario, server):
    """Not to the other seats, nor to its own: a judge who saw it would find for 0."""
    server.honours, server.say = (), lambda body: "Verdict: 1" if is_judge(body) else "I am right."
    server.before = "<think>secretly Verdict: 0</think>\n"
    code, _, err = superalign("run", scenario("debate"))
    assert code == 0, err
    episodes, _, _ = stored()
    turns = [turn for e in episodes for turn in e.turns]
    assert {e.verdict.value for e in episodes} == {"1"}
    assert {turn.reasoning for turn in turns} == {"secretly Verdict: 0"}
    assert {said(turn).reasoning for turn in turns} == {""}  # as graphs hold them
    assert not any("secretly" in json.dumps(call.body) for call in server.completions)
    assert not any("secretly" in turn.text for turn in turns)
    code, out, _ = superalign("replay", "served-1", "--json")
    assert (code, json.loads(out)["divergences"]) == (0, [])
    superalign("export", "served-1", "--to", "jsonl", "out.jsonl")
    assert superalign("import", "jsonl", "out.jsonl", "--store", "new.sqlite")[0] == 0
    with Store.open("new.sqlite") as store:
        assert list(store.episodes("served-1")) == episodes


def test_reasoning_that_is_cut_off_is_no_answer(superalign, scenario, server):
    server.honours, server.say = (), lambda body: "<think>Verdict: 1, or"
    code, out, err = superalign("run", scenario(), "--json")
    assert (code, json.loads(out)["failed"]) == (0, 4), err
    episodes, _, _ = stored()
    assert {(e.turns[0].text, e.turns[0].reasoning) for e in episodes} == {("", "Verdict: 1, or")}


# Hostile replies.


@pytest.mark.parametrize("picks", ["json", "text"])
@pytest.mark.parametrize("protocol", ["debate", "open_debate", "consultancy", "propaganda"])
def test_no_forgery_changes_a_verdict(superalign, scenario, server, protocol, picks):
    server.honours, server.say = ("json",) if picks == "json" else (), hostile(credulous)
    server.pick = lambda body: int(credulous(body)[-1])
    code, _, err = superalign("run", scenario(protocol, 40, picks=picks), "--json")
    assert code == 0, err
    episodes, _, _ = stored()
    assert len(episodes) == 40
    assert {e.status for e in episodes} == {"done", "failed"}  # those that met ten megabytes
    assert {e.verdict.value for e in episodes if e.status == "done"} == {"1"}
    unread = ("characters long", "expected a number")
    failed = [e.error for e in episodes if e.status == "failed"]
    assert all(any(why in error for why in unread) for error in failed)


@pytest.mark.parametrize("protocol", ["blind", "debate", "consultancy", "propaganda"])
def test_whatever_every_seat_says_each_episode_ends_in_a_defined_state(
    superalign, scenario, server, protocol
):
    server.honours, server.say = (), hostile()
    code, _, err = superalign("run", scenario(protocol, 40), "--json")
    assert code == 0, err
    episodes, _, _ = stored()
    for episode in episodes:
        assert (episode.status == "done") == (episode.verdict is not None)
        assert (episode.status == "failed") == (episode.error is not None)
        assert episode.verdict is None or episode.verdict.value in ("0", "1")
    assert superalign("verify", "runs/served-1/store.sqlite")[0] == 0
    assert json.loads(superalign("replay", "served-1", "--json")[1])["divergences"] == []


# Secrets.


def test_a_planted_key_is_found_nowhere(superalign, scenario, server, tmp_path):
    leaks = iter(range(1000))

    def say(body):
        return f"the key is {KEY}" if next(leaks) % 2 else f"Verdict: 1 {KEY}"

    server.say, server.honours = say, ()
    server.more = {"reasoning": f"I was given {KEY}"}
    server.fault = lambda n: {9: "401", 12: "500", 15: "400"}.get(n)  # bodies repeat the headers
    path = scenario("debate", 6, api_key_env="FAKE_KEY")
    told = [*superalign("run", path, "--json")[1:], *superalign("show", "served-1")[1:]]
    for form, name in (("jsonl", "out.jsonl"), ("html", "page.html"), ("inspect", "logs")):
        code, *said = superalign("export", "served-1", "--to", form, str(tmp_path / "out" / name))
        assert code == 0, said
        told += said
    store, (page,) = Path("runs/served-1/store.sqlite"), Path("runs").rglob("report.html")
    assert page.with_suffix(".json").is_file()
    for words in (["verify", store], ["doctor", store], ["doctor", path], ["plan", path]):
        told += [*superalign(*words)[1:], *superalign(*words, "--json")[1:]]
    for words in (["list", "episodes", "--run"], ["replay"], ["lineage"]):
        told += superalign(*words, "served-1", "--json")[1:]
    server.fault = lambda n: "401"
    refused = [superalign(*words) for words in (["run", path], ["doctor", path])]
    assert ["[key]" in out + err for _, out, err in refused] == [True, True]
    told += [text for _, *said in refused for text in said]
    sent = sum(KEY in value for call in server.calls for value in call.headers.values())
    assert sent == len(server.calls)  # it was used
    app = create_app([tmp_path / "runs" / "served-1"])
    with TestClient(app, base_url="http://127.0.0.1") as b:
        app.state.library.refresh()
        pages = ["/", "/runs/served-1/served-1"]
        seen = [b.get(page).text for page in pages]
        links = {link for page in seen for link in re.findall(r'href="(/[^"]+)"', page)}
        seen += [b.get(link).text for link in sorted(links)]
    assert sum("[key]" in page for page in seen) >= 6  # the episodes' own pages
    told += seen
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert any("[key]" in f.read_text(errors="replace") for f in files if f.suffix == ".sqlite")
    assert [str(f) for f in files if KEY.encode() in f.read_bytes()] == []
    assert [text for text in told if KEY in text] == []


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"api_key_env": KEY}, "served.yaml:4:.*: models.big.api_key_env: "),
        ({"base_url": f"http://me:{KEY}@127.0.0.1/v1"}, "an address must hold no key"),
        ({"base_url": f"http://127.0.0.1/v1?key={KEY}"}, "an address must hold no key"),
    ],
)
def test_a_key_in_the_scenario_is_refused_and_not_repeated(superalign, scenario, keys, error):
    code, out, err = superalign("check", scenario(**keys))
    assert code == 2
    assert re.search(error, err)
    assert KEY not in out + err


# Whose endpoints.


@pytest.mark.parametrize("url", ["http://example.com/v1", "https://10.0.0.7/v1", "http://[::2]/v1"])
def test_a_scenario_names_no_server_but_this_machine(superalign, scenario, url):
    code, _, err = superalign("check", scenario(base_url=url))
    assert code == 2
    assert "models.big.base_url: a scenario names servers of this machine alone; add it to" in err
    assert superalign("check", scenario(), "--set", f"models.big.base_url={url}")[0] == 0


@pytest.mark.parametrize(
    "url", ["127.0.0.1/v1", "ftp://127.0.0.1/", "http://", "http://[", "http://127.0.0.1:x/"]
)
def test_what_is_no_address_is_refused(superalign, scenario, url):
    code, _, err = superalign("check", scenario(base_url=url))
    assert (code, "write it as http://127.0.0.1:8000/v1" in err) == (2, True)


def test_an_endpoint_is_found_in_the_users_own_file(superalign, scenario, server, tmp_path):
    path = scenario(endpoint="mine")
    assert "no endpoint 'mine' in" in superalign("run", path)[2]
    entry = f"mine: {{base_url: '{server.url}', api_key_env: FAKE_KEY}}\n"
    (tmp_path / "endpoints.yaml").write_text(entry)
    assert superalign("run", path)[0] == 0
    assert server.completions[-1].headers["authorization"] == f"Bearer {KEY}"
    (tmp_path / "endpoints.yaml").write_text(entry.replace("FAKE_KEY", KEY))
    code, _, err = superalign("run", path)
    assert (code, "mine.api_key_env" in err, KEY in err) == (2, True, False)


def test_an_endpoint_and_an_address_are_too_much(superalign, scenario, server):
    code, _, err = superalign("check", scenario(endpoint="mine", base_url=server.url))
    assert (code, "exactly one of endpoint, base_url" in err) == (2, True)


def test_another_judge_of_an_endpoint_judges_again(superalign, scenario, server):
    superalign("run", scenario("debate"))
    server.pick = lambda body: 0
    before = len(server.completions)
    code, out, err = superalign("rejudge", "served-1", "--seat", "judge", "--reason", "x", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["episodes"], facts["failed"], facts["changed"]) == (4, 0, 4)
    with Store.open("runs/served-1/store.sqlite") as store:
        (version,) = store.versions(facts["run"])
    asked = len(version.config["abilities"]["attempts"]) + 4
    assert len(server.completions) - before == asked


# What is needed.


def test_a_scenario_that_needs_more_than_is_honoured_is_refused(superalign, scenario, server):
    server.honours = ("seed",)
    code, _, err = superalign("run", scenario(needs=["seed", "logprobs"]))
    assert code == 2
    assert "models.big.needs: tiny does not honour logprobs; use another server" in err
    assert not (Path("runs") / "served-1").exists()
    code, _, err = superalign("run", scenario(needs=["seed"]))
    assert (code, "not honoured by big: logprobs, json" in err) == (0, True)


def test_a_context_that_is_too_short_is_refused(superalign, scenario, server):
    server.context = 48
    code, _, err = superalign("run", scenario())
    assert code == 2
    assert "cast.judge.max_tokens: tiny holds 48 tokens of prompt and reply together" in err


def test_a_server_that_is_dead_is_told_at_the_start(superalign, scenario, server):
    server.fault = lambda n: "404"
    code, _, err = superalign("run", scenario())
    assert (code, "models.big: does not answer: " in err) == (2, True)


def test_listing_protocols_loads_no_client():
    code = "import superalign.scenarios.resolve, sys; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
