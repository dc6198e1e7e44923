"""What every shipped protocol holds to: it is sound, short, told about, and can be drawn."""

import ast
import asyncio
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from superalign.protocols import Protocol, load_protocol, shipped
from superalign.protocols.check import check_protocol
from superalign.protocols.drawing import draw, graph_of, layout
from superalign.scenarios.indexes import langgraph_json, protocol_index

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "protocols"

every = pytest.mark.parametrize("name", shipped())


@every
def test_it_is_sound_as_it_comes(name):
    protocol = load_protocol(name)
    report = asyncio.run(check_protocol(protocol, protocol.params({})))
    assert [(p.kind, p.where, p.message) for p in report.problems] == []
    assert report.max_calls > 0


@every
def test_it_is_one_short_file(name):
    assert len((ROOT / "protocols" / f"{name}.py").read_text().splitlines()) <= 150


@every
def test_its_docstring_begins_with_its_name_and_has_its_graph(name):
    says = ast.get_docstring(ast.parse((ROOT / "protocols" / f"{name}.py").read_text())) or ""
    assert re.match(rf"{name}: \S.*[.?]$", says.splitlines()[0])
    assert load_protocol(name).about == says.splitlines()[0]
    nodes = set(graph_of(load_protocol(name), load_protocol(name).params({})))
    drawn = [line for line in says.splitlines() if line.startswith("    ")]
    named = nodes & set(re.findall(r"\w+", " ".join(drawn)))
    assert nodes - named <= {"__start__", "__end__"}


@every
def test_it_has_a_page(name):
    page = (PAGES / f"{name}.md").read_text()
    assert page.startswith("# ")
    assert name in page


def test_the_index_is_current():
    """`make schema` writes it."""
    assert (PAGES / "README.md").read_text() == protocol_index()


def test_every_page_is_about_a_shipped_protocol():
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} <= set(shipped())


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@every
def test_it_is_drawn(name, tmp_path):
    protocol = load_protocol(name)
    params = protocol.params({})
    graph, places = graph_of(protocol, params), layout(graph_of(protocol, params))
    assert set(places) == set(graph)
    assert len(set(places.values())) == len(places)  # no box lies on another
    for end, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".mmd", b"---")):
        path = tmp_path / f"{name}{end}"
        draw(protocol, params, path)
        assert path.read_bytes().startswith(begins)
    texts = set(re.findall(r">([^<>\s]+)</text>", (tmp_path / f"{name}.svg").read_text()))
    assert texts == {name, *(node.strip("_") for node in graph)}


# LangGraph's own tools.


def opened(entry: str) -> Any:
    """What `langgraph dev` makes of an entry: it imports a module that is named by its dots, and
    calls what takes no parameters and is no graph yet."""
    module, _, variable = entry.partition(":")
    assert "/" not in module
    found = vars(import_module(module))[variable]
    if callable(found) and not isinstance(found, Pregel | StateGraph):
        found = found()
    return found.compile() if isinstance(found, StateGraph) else found


def test_langgraph_json_names_every_shipped_protocol():
    """`make schema` writes it."""
    assert (ROOT / "langgraph.json").read_text() == langgraph_json()
    assert set(json.loads(langgraph_json())["graphs"]) == set(shipped())


@every
def test_langgraph_s_tools_open_it(name):
    graph = opened(json.loads((ROOT / "langgraph.json").read_text())["graphs"][name])
    protocol = load_protocol(name)
    assert set(graph.nodes) - {"__start__"} == {
        node for node in graph_of(protocol, protocol.params({})) if not node.startswith("__")
    }


def test_langgraph_s_own_validator_accepts_the_file():
    config = pytest.importorskip("langgraph_cli.config", reason="langgraph-cli is not installed")
    found = config.validate_config_file(ROOT / "langgraph.json")
    assert set(found["graphs"]) == set(shipped())


def test_a_protocol_called_is_its_graph_with_default_parameters():
    critique = load_protocol("critique")
    assert isinstance(critique, Protocol)
    assert set(critique().nodes) == {"attack", "answer", "criticise", "revise", "decide"}
