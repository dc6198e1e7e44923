"""What an installed package offers is found by name: a protocol, a world, an engine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superalign.protocols import load_protocol, shipped
from superalign.protocols.offers import offered
from superalign.store import BadInput

HERE = Path(__file__).parent
SCENARIO = """name: coins
world: {kind: coins, side: tails}
models: {bird: {engine: parrot, word: tails}}
protocol: {name: call_it, times: 2}
cast: {learner: {model: bird}}
episodes: 3
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The package of tests/offering, built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("offering")
    shutil.copytree(HERE / "offering", folder / "source")
    words = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-q"]
    words += ["--disable-pip-version-check", "--target", folder / "site", folder / "source"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def here(site, tmp_path, monkeypatch):
    """A folder with a scenario that names what the package offers, which is installed."""
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "coins.yaml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("offering_engine", "offering_protocol", "offering_world"):
        sys.modules.pop(name, None)


def test_a_scenario_of_installed_things_runs_and_replays(here, superalign):
    code, out, err = superalign("run", "coins.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["failed"] == 0
    code, out, _ = superalign("list", "episodes", "--run", "coins-1", "--json")
    assert [(e["verdict"], e["turns"]) for e in json.loads(out)] == [("called", 2)] * 3
    code, out, _ = superalign("replay", "coins-1", "--json")
    facts = json.loads(out)
    assert (code, facts["episodes"], facts["model_calls"], facts["divergences"]) == (0, 3, 0, [])


def test_installed_things_are_listed(here, superalign):
    _, out, _ = superalign("list", "protocols", "--json")
    (mine,) = (line for line in json.loads(out) if line["name"] == "call_it")
    assert mine["says"] == "a learner calls a coin."
    assert "coins" in superalign("list", "worlds")[1]


def test_an_installed_protocol_is_checked_and_drawn_by_its_name(here, superalign):
    code, out, _ = superalign("check", "call_it", "--set", "times=3")
    assert (code, out.splitlines()[-1]) == (0, "call_it: ok, at most 3 calls an episode")
    assert superalign("draw", "call_it", "--to", "call.png")[0] == 0
    assert (here / "call.png").read_bytes()[:4] == b"\x89PNG"


def test_listing_and_reading_others_runs_no_code_of_the_package(here, superalign):
    (here / "plain.yaml").write_text(
        SCENARIO.replace("coins, side: tails", "arithmetic")
        .replace("parrot, word: tails", "scripted, replies: [x]")
        .replace("{name: call_it, times: 2}", "{name: multi_agent_debate}")
    )
    superalign("check", "plain.yaml", "--no-code")
    superalign("list", "worlds")
    assert not [name for name in sys.modules if name.startswith("offering")]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("side: tails", "side: edge", "coins.yaml:2:22: world.side: input should be 'heads'"),
        ("side: tails", "sides: tails", "unknown key; did you mean 'side'?"),
        ("word: tails", "word: a, wrd: b", "models.bird.wrd: unknown key; did you mean 'word'?"),
        ("times: 2", "times: two", "protocol.times"),
        ("parrot", "parott", "models.bird.engine"),
        ("kind: coins", "kind: coin", "world.kind: 'coin' is not known"),
    ],
)
def test_what_a_package_offers_is_held_to_its_grammar(right, wrong, said, here, superalign):
    (here / "coins.yaml").write_text(SCENARIO.replace(right, wrong))
    code, _, err = superalign("check", "coins.yaml")
    assert (code, said in err) == (2, True), err


def test_without_the_package_its_names_are_unknown():
    assert "call_it" not in offered("superalign.protocols")
    with pytest.raises(BadInput, match=r"no protocol 'call_it'; there are .*critique"):
        load_protocol("call_it")


def claims(folder: Path, name: str, group: str, **entries: str) -> None:
    """Metadata of an installed package that offers some things, by hand."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_what_ships_cannot_be_replaced(tmp_path, monkeypatch):
    claims(tmp_path, "thief", "superalign.protocols", critique="thief:critique")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert offered("superalign.protocols")["critique"].value == "thief:critique"
    assert load_protocol("critique").build.__module__ == "superalign.protocols.critique"


def test_two_packages_with_one_name_are_refused(tmp_path, monkeypatch):
    for name in ("one", "two"):
        claims(tmp_path, name, "superalign.protocols", mine=f"{name}:mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInput, match="one:mine and two:mine are both called 'mine'; uninstall"):
        load_protocol("mine")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nothing_there:mine", r"'mine' cannot be loaded .* ModuleNotFoundError"),
        ("json:dumps", "expected a protocol named 'mine'"),
        ("superalign.protocols.critique:critique", "is protocol 'critique'; expected a protocol"),
    ],
)
def test_an_offer_that_is_no_protocol_is_refused(value, said, tmp_path, monkeypatch):
    claims(tmp_path, "odd", "superalign.protocols", mine=value)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInput, match=said):
        load_protocol("mine")


@pytest.mark.parametrize("value", ["json:dumps", "superalign.scenarios.world_kinds:WorldKind"])
def test_an_offer_that_is_no_world_is_refused(value, tmp_path, monkeypatch, superalign):
    claims(tmp_path, "odd", "superalign.worlds", coins=value)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "coins.yaml").write_text(SCENARIO)
    code, _, err = superalign("check", str(tmp_path / "coins.yaml"))
    said = f"'coins' is {value}; expected a WorldKind whose `kind` is Literal[\"coins\"]"
    assert (code, said in err) == (2, True), err


def test_the_names_that_ship_need_no_installed_package():
    assert {"critique", "recorded"} <= set(shipped())
