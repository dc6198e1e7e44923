"""Every block of docs/tutorial.md, run in order in an empty folder; what `new` and `draw` do."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superalign.protocols import load_protocol, shipped
from superalign.protocols.drawing import draw
from superalign.scenarios.new import TEMPLATES, new_protocol
from superalign.store import BadInput

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


class Block(NamedTuple):
    language: str
    title: str | None
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"```(\w+)(?: title=(\S+))?\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    return [Block(language, title or None, text) for language, title, text in found]


def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch, superalign, capsys):
    """Files are written, commands are run, Python is run, and what is shown was printed."""
    monkeypatch.chdir(tmp_path)
    printed, done = "", set()
    for block in blocks():
        done.add(block.language)
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "sh":
            printed = ""
            for line in block.text.splitlines():
                printed += commanded(superalign, line)
        elif block.language == "python":
            exec(compile(block.text, str(TUTORIAL), "exec"), {})
            assert "better:" in capsys.readouterr().out
        else:
            assert block.language == "text"
            assert set(block.text.splitlines()) <= set(printed.splitlines())
    assert done == {"sh", "python", "yaml", "text"}
    assert Path("drafts.png").read_bytes().startswith(b"\x89PNG")


def commanded(superalign, line: str) -> str:
    """What a command of the tutorial prints; EPISODE stands for one that was listed."""
    if "EPISODE" in line:
        _, listed, _ = superalign("list", "episodes", "--run", "drafts-1", "--json")
        line = line.replace("EPISODE", json.loads(listed)[0]["id"])
    name, *words = shlex.split(line)
    assert name == "superalign"
    code, out, err = superalign(*words)
    assert code == 0, f"{line}: {err}"
    return out


def test_the_tutorial_s_protocol_has_fewer_than_40_lines():
    (protocol,) = (block for block in blocks() if block.title == "drafts.py")
    assert len(protocol.text.splitlines()) < 40
    assert max(map(len, protocol.text.splitlines())) <= 100


def test_no_block_of_the_tutorial_is_of_a_kind_that_is_not_run():
    fences = re.findall(r"^```(\w+)", TUTORIAL.read_text(), re.MULTILINE)
    assert len(blocks()) == len(fences)
    assert TUTORIAL.read_text().count("```") == 2 * len(fences)


# superalign new protocol


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_protocol_checks_runs_and_replays_at_once(here, superalign):
    code, out, _ = superalign("new", "protocol", "second_look", "--json")
    assert (code, json.loads(out)["files"]) == (0, ["second_look.py", "second_look.yaml"])
    assert {path.name for path in here.iterdir()} == {"second_look.py", "second_look.yaml"}
    for target in ("second_look.py:second_look", "second_look.py", "second_look.yaml"):
        code, out, _ = superalign("check", target)
        assert (code, out.splitlines()[-1]) == (
            0,
            "second_look: ok, at most 2 calls an episode",
        )
    code, out, err = superalign("run", "second_look.yaml", "--json")
    assert (code, json.loads(out)["episodes"], json.loads(out)["failed"]) == (0, 24, 0), err
    _, out, _ = superalign("list", "episodes", "--run", "second_look-1", "--json")
    assert {episode["verdict"] for episode in json.loads(out)} == {"accepted", "rejected"}
    code, out, _ = superalign("replay", "second_look-1", "--json")
    assert (code, json.loads(out)["divergences"]) == (0, [])


@pytest.mark.parametrize("there", ["mine.py", "mine.yaml"])
def test_nothing_is_overwritten(there, here, superalign):
    (here / there).write_text("precious")
    code, out, err = superalign("new", "protocol", "mine")
    assert (code, out) == (2, "")
    assert f"{there}: is there already; choose another name, or move it away" in err
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [(there, "precious")]


def test_a_link_to_nowhere_is_not_written_through(here, superalign):
    (here / "mine.py").symlink_to(here / "elsewhere.py")
    assert superalign("new", "protocol", "mine")[0] == 2
    assert not (here / "elsewhere.py").exists()


BAD = ["", "Mine", "my-own", "my own", "1st", "class", "../mine", "_mine", "mine\n", "é", "x" * 65]
TAKEN = ["critique", "learner", "state", "protocol", "rewards", "print", "graph"]


@pytest.mark.parametrize("name", [*BAD, *TAKEN])
def test_a_bad_name_exits_with_2(name, here, superalign):
    code, out, err = superalign("new", "protocol", name)
    assert (code, out) == (2, "")
    assert repr(name) in err
    assert list(here.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(name=st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True))
def test_every_name_is_refused_or_gives_a_protocol_of_that_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    try:
        new_protocol(name, folder)
    except BadInput:
        assert list(folder.iterdir()) == []
        return
    made = load_protocol(name, folder / f"{name}.py")
    assert (made.name, made.seats) == (name, ("learner", "critic"))
    assert f"{name}: " in made.about


def test_only_protocols_can_be_begun(here, superalign):
    code, _, err = superalign("new", "world", "mine")
    assert code == 2
    assert "'world' cannot be begun; write: superalign new protocol mine" in err


def test_the_template_is_as_tidy_as_what_ships():
    lines = (TEMPLATES / "new.py.txt").read_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100


# superalign draw


def test_draw_prints_mermaid_and_writes_pictures(here, superalign):
    code, out, _ = superalign("draw", "critique")
    assert (code, "answer --> criticise" in out) == (0, True)
    for end in (".png", ".svg", ".mmd"):
        code, out, _ = superalign("draw", "critique", "--to", f"c{end}")
        assert (code, out.strip()) == (0, f"c{end}")
    assert (here / "c.mmd").read_text() == load_protocol("critique").mermaid({})


@pytest.mark.parametrize("end", [".png", ".svg"])
def test_one_graph_gives_one_picture(end, here):
    critique = load_protocol("critique")
    for name in ("a", "b"):
        draw(critique, critique.params({}), here / f"{name}{end}")
    assert (here / f"a{end}").read_bytes() == (here / f"b{end}").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["critique", "--to", "c.gif"], "c.gif: cannot draw '.gif'; end it in .png, .svg, .mmd"),
        (["critique", "--to", "no/where.png"], "no/where.png: No such file or directory"),
        (["nobody"], "no protocol 'nobody'; there are "),
        (["some.yaml"], "'some.yaml': is no protocol; give a name, or a FILE.py:name"),
        (["critique", "--set", "samples=1"], "samples: input should be greater than or equal to 2"),
    ],
)
def test_what_cannot_be_drawn_exits_with_2(words, said, here, superalign):
    code, out, err = superalign("draw", *words)
    assert (code, out, said in err) == (2, "", True), err


def test_protocols_are_listed_with_what_they_do(superalign):
    code, out, _ = superalign("list", "protocols", "--json")
    listed = {line["name"]: line["says"] for line in json.loads(out)}
    assert (code, set(listed) >= set(shipped())) == (0, True)
    assert listed["critique"].startswith("an attacker asks, a learner answers, a critic finds ")
