"""The viewer over HTTP: what its pages show, what its index finds, and what it refuses."""

import importlib.util
import re
import sqlite3
from pathlib import Path

import networkx as nx
import pytest
from starlette.testclient import TestClient

from superalign.scenarios.search import Index, quoted
from superalign.scenarios.viewer import create_app, unstyled
from superalign.scenarios.viewer_graph import path_taken, stops_of, svg
from superalign.scenarios.viewing import serve
from superalign.store import BadInput, Store
from superalign.store.labels import LabelBook

SPEC = importlib.util.spec_from_file_location("viewed", Path(__file__).parent / "viewed.py")
assert SPEC and SPEC.loader
viewed = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(viewed)

FIRST = "0" * 16
HERE = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}


@pytest.fixture
def client(tmp_path):
    """`client(folder, …)`: a browser of sorts on a viewer whose indexes are up to date."""
    opened = []

    def serve_it(*folders, **options):
        app = create_app(folders, **options)
        browser = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
        browser.__enter__()
        opened.append(browser)
        app.state.library.refresh()
        return browser

    yield serve_it
    for browser in opened:
        browser.__exit__(None, None, None)


@pytest.fixture
def one(client, tmp_path):
    return client(viewed.fill(tmp_path / "run"))


def ids(page: str) -> list[str]:
    return re.findall(r"/episodes/(\w+)", page)


# Pages.


def test_runs_are_listed_with_their_counts(one):
    page = one.get("/").text
    assert 'href="/runs/run/run"' in page
    assert 'href="/runs/run/run-fork-1"' in page
    assert re.search(r"<b>3</b> episodes", page)


def test_episodes_are_listed_the_newest_first(one):
    assert ids(one.get("/runs/run/run").text) == [f"{i:016x}" for i in (2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("verdict=solved", [2, 0]),
        ("verdict=none+such", []),
        ("verdict=solved&seat=critic&status=done&iteration=0&protocol=critique", [2, 0]),
        ("q=n1", [1]),
        ("q=%22q2+9%22", []),
        ("q=q2", [2]),
        ("q=n1&verdict=solved", []),
        ("q=AND+%22+OR+*+-", []),
        ("before=2", [0]),
    ],
)
def test_filters_and_text_search(one, query, found):
    response = one.get(f"/runs/run/run?{query}")
    assert response.status_code == 200
    assert ids(response.text) == [f"{i:016x}" for i in found]


def test_pages_follow_each_other_by_key(client, tmp_path):
    browser = client(viewed.fill(tmp_path / "run", n=120))
    seen, at = [], "/runs/run/run?protocol=critique"
    while at:
        page = browser.get(at).text
        seen += ids(page)
        more = re.search(r'href="([^"]*)" rel="next"', page)
        at = more and more[1].replace("&amp;", "&")
    assert seen == [f"{i:016x}" for i in reversed(range(120))]


def test_an_episode_shows_what_was_said_and_made_of_it(one):
    page = one.get(f"/runs/run/run/episodes/{FIRST}").text
    assert "first wrong line, 70% sure" in page
    assert "really the first wrong line" in page
    assert "private: critic" in page
    assert "for critic alone" in page
    assert "again" in page
    assert 'class="p5' in page
    assert f"/runs/run/run-fork-1/episodes/{'f' * 16}" in page
    assert "/diff/run?" in page


def test_as_seen_by_a_seat_is_what_the_journal_says_it_was_given(
    client, tmp_path, superalign, folder
):
    superalign("run", "players.yaml")
    browser = client(folder / "runs" / "players-1")
    with Store.open(folder / "runs" / "players-1" / "store.sqlite") as store:
        for episode in store.episodes("players-1"):
            page = browser.get(f"/runs/players-1/players-1/episodes/{episode.id}?as=critic").text
            turns = episode.by("critic")
            given = store.messages(key for turn in turns for key in turn.messages)
            asked = [given[key].content for turn in turns for key in turn.messages]
            assert page.count('class="message"') == len(asked)
            assert all(as_text(content) in page for content in asked)


def as_text(content: str) -> str:
    from markupsafe import escape

    return f"<pre>{escape(content)}</pre>"


def test_two_branches_side_by_side(one):
    page = one.get(f"/diff/run?a=run/{FIRST}&b=run-fork-1/{'f' * 16}").text
    assert "0 turns in common, then 3 that differ" in page
    same = one.get(f"/diff/run?a=run/{FIRST}&b=run/{FIRST}").text
    assert "3 turns in common, then 0 that differ" in same


def test_the_report_has_its_plots_and_no_inline_style(client, tmp_path, superalign, folder):
    superalign("run", "players.yaml")
    browser = client(folder / "runs" / "players-1")
    page = browser.get("/runs/players-1/players-1/report")
    assert page.status_code == 200
    assert page.text.count("<figure>") >= 1
    assert "style=" not in page.text
    assert "<style" not in page.text


def test_style_attributes_become_presentation_attributes():
    assert unstyled('<path style="fill: none; stroke: var(--a)"/>') == (
        '<path fill="none" stroke="var(--a)"/>'
    )
    assert unstyled("<pre> style=&#34;a: b&#34; </pre>") == "<pre> style=&#34;a: b&#34; </pre>"


def test_lineage_is_drawn(one):
    page = one.get(f"/runs/run/run/lineage?ref=run/{FIRST}")
    assert page.status_code == 200
    assert "<svg" in page.text


def test_a_run_that_is_being_played_is_watched_without_holding_its_writer(client, tmp_path):
    folder = viewed.fill(tmp_path / "run")
    browser = client(folder)
    with Store.open(folder / "store.sqlite", write=True) as store:
        coming = viewed.episode("run", "a" * 16, 3, "5+5=10;10")
        store.put_turn("run", coming.id, coming.turns[0])
        store.flush()
        page = browser.get("/runs/run/run").text
        assert "1 turns so far" in page
        assert browser.get(f"/runs/run/run/episodes/{'a' * 16}").status_code == 200
        for turn in coming.turns[1:]:
            store.put_turn("run", coming.id, turn)
        store.put_episode(coming)
        store.flush()
        browser.app.state.library.refresh()
        page = browser.get("/runs/run/run").text
    assert "turns so far" not in page
    assert ids(page)[0] == "a" * 16


def test_every_run_below_the_folder_is_shown_also_later_ones(client, folder, superalign):
    browser = client()
    assert "no run below" in browser.get("/").text
    superalign("run", "players.yaml")
    assert "players-1" in browser.get("/").text


# The index.


def test_the_index_catches_up_and_equals_one_made_at_once(tmp_path):
    folder = viewed.fill(tmp_path / "run", n=5)
    path = folder / "store.sqlite"
    with Store.open(path) as store:
        index = Index(store, path)
        assert sum(index.refresh()) == 6
    with Store.open(path, write=True) as store:
        viewed.put(store, viewed.episode("run", "b" * 16, 9, "x"))
    with Store.open(path) as store:
        index = Index(store, path)
        assert index.newer() == 1
        assert sum(index.refresh()) == 1
        facets, found = index.facets("run"), index.find("run", {"verdict": "solved"}, "", None, 99)
        index.path.unlink()
        again = Index(store, path)
        assert sum(again.refresh()) == 7
        assert again.facets("run") == facets
        assert again.find("run", {"verdict": "solved"}, "", None, 99) == found


def test_an_index_of_another_store_or_a_damaged_one_is_made_anew(tmp_path):
    a, b = viewed.fill(tmp_path / "a"), viewed.fill(tmp_path / "b", n=9, text="other")
    with Store.open(a / "store.sqlite") as store:
        sum(Index(store, a / "store.sqlite").refresh())
    index = b / "store.search.sqlite"
    index.write_bytes((a / "store.search.sqlite").read_bytes())
    with Store.open(b / "store.sqlite") as store:
        assert sum(Index(store, b / "store.sqlite").refresh()) == 10
        index.write_bytes(b"no database" * 1000)
        assert sum(Index(store, b / "store.sqlite").refresh()) == 10


def test_the_index_writes_nothing_into_the_store(tmp_path):
    path = viewed.fill(tmp_path / "run") / "store.sqlite"
    before = path.read_bytes()
    with Store.open(path) as store:
        list(Index(store, path).refresh())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words", ['"', "a AND", "words:x", "NEAR(a b)", "-a", "^a", "a*", "{a}:b", "'"]
)
def test_no_word_is_an_operator(words, tmp_path):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE said USING fts5(words, facets)")
    if match := " AND ".join(quoted(words)):
        assert db.execute("SELECT count(*) FROM said WHERE said MATCH ?", [match]).fetchone() == (
            0,
        )


# The graph.


def test_the_path_taken_goes_through_nodes_that_asked_nobody():
    graph = nx.DiGraph([("__start__", "a"), ("a", "b"), ("b", "c"), ("b", "a"), ("c", "__end__")])
    stops = stops_of(["0001:a:0000/x:00", "0003:a:0000/x:00", "0001:a:0001/x:00"])
    assert [stop.name for stop in stops] == ["a", "a"]
    ways = path_taken(graph, stops, ended=True)
    assert ways == [["__start__", "a"], ["a", "b", "a"], ["a", "b", "c", "__end__"]]
    drawn = svg(graph, ways)
    assert drawn.count('class="node taken"') == 5
    assert "style" not in drawn


def test_a_protocol_given_by_path_is_never_imported(client, tmp_path, monkeypatch):
    folder = viewed.fill(tmp_path / "run", protocol="evil")
    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute(
            """UPDATE runs SET scenario = json_set(scenario, '$.protocol.path', 'evil.py')"""
        )
    (folder / "evil.py").write_text("raise SystemExit")
    monkeypatch.chdir(folder)
    page = client(folder).get(f"/runs/run/run/episodes/{FIRST}")
    assert page.status_code == 200
    assert ">criticise<" in page.text
    assert ">decide<" not in page.text


# Labelling.


def test_a_case_is_answered_taken_back_and_answered_again(one, tmp_path):
    page = one.get("/label/run/run?author=ann").text
    assert "Is this answer right?" in page
    assert "critic" not in page.lower().replace("criticise", "")
    assert "attacker" not in page
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page))
    sent = {**form, "what": "answer", "value": "right", "note": "sure", "seconds": "1.5"}
    done = one.post("/label/run/run", data=sent, headers=HERE)
    assert done.status_code == 303
    assert "Nothing waits for you" in one.get(done.headers["location"]).text
    assert one.post("/label/run/run", data=sent, headers=HERE).status_code == 409
    undo = {"author": "ann", "what": "undo"}
    assert one.post("/label/run/run", data=undo, headers=HERE).status_code == 303
    assert "Is this answer right?" in one.get("/label/run/run?author=ann").text
    assert (
        one.post("/label/run/run", data={**sent, "value": "wrong"}, headers=HERE).status_code == 303
    )
    book = LabelBook.beside(str(tmp_path / "run" / "store.sqlite"))
    (said,) = next(iter(book.answers("run").values()))
    assert (said.value, said.note, said.seconds, said.author) == ("wrong", "sure", 1.5, "ann")


# What is refused.


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1", "sec-fetch-site": "cross-site"},
        {},
    ],
)
def test_a_write_from_elsewhere_is_refused(one, headers):
    response = one.post("/label/run/run", data={"author": "a", "what": "undo"}, headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "10.0.0.1"]
)
def test_a_foreign_host_is_refused(one, host):
    assert one.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:9"])
def test_this_machine_is_known_by_its_names(one, host):
    assert one.get("/", headers={"host": host}).status_code == 200


def test_a_token_opens_the_door_once_and_then_a_cookie_does(client, tmp_path):
    browser = client(viewed.fill(tmp_path / "run"), host="0.0.0.0", token="t" * 20)
    assert browser.get("/").status_code == 401
    assert browser.get("/?token=wrong").status_code == 401
    assert browser.get("/static/viewer.css").status_code == 401
    assert browser.get("/", headers={"cookie": "superalign_token=\x7f; ;="}).status_code == 401
    assert browser.get("/", headers={"authorization": "Bearer " + "t" * 20}).status_code == 200
    came = browser.get("/?token=" + "t" * 20)
    assert (came.status_code, came.headers["location"]) == (303, "/")
    assert "HttpOnly" in came.headers["set-cookie"]
    assert browser.get("/", headers={"host": "192.168.0.9:1"}).status_code == 200
    assert browser.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("host", "token", "what"),
    [
        ("0.0.0.0", None, "--token"),
        ("127.0.0.1", "short", "at least 16"),
        ("no.such.host.invalid", "t" * 20, "--host"),
    ],
)
def test_what_cannot_be_served_safely_is_not_served(tmp_path, host, token, what):
    with pytest.raises(BadInput, match=what):
        serve((viewed.fill(tmp_path / "run"),), host, 0, token)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/runs/none/run", 404),
        ("/runs/run/none", 404),
        ("/runs/run/run/episodes/none", 404),
        (f"/runs/run/run/episodes/{FIRST}?as=nobody", 404),
        ("/runs/run/run?before=99999999999999999999999", 422),
        ("/runs/run/run?q=" + "a" * 500, 422),
        ("/diff/run?a=x&b=y", 422),
        ("/diff/run?a=run/x&b=run/y", 404),
        ("/runs/run/run/lineage?ref=no/such/thing", 404),
        ("/static/../viewer.py", 404),
        ("/static/%2e%2e/viewer.py", 404),
        ("/label/run/none", 404),
    ],
)
def test_errors_are_pages_with_a_status(one, path, status):
    response = one.get(path)
    assert response.status_code == status
    if "static" not in path:
        assert "<h1>" in response.text


@pytest.mark.parametrize("field", ["facts", "task", "question", "rewards", "params"])
def test_a_damaged_record_is_a_page_too(client, tmp_path, field):
    folder = viewed.fill(tmp_path / "run")
    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute(f"UPDATE episodes SET {field} = '{{no json' WHERE id = '{FIRST}'")
    browser = client(folder)
    page = browser.get(f"/runs/run/run/episodes/{FIRST}")
    assert page.status_code == 422
    assert "superalign verify" in page.text
    assert browser.get("/runs/run/run").status_code in (200, 422)


def test_every_answer_carries_the_headers(one):
    for path in ("/", "/nothing", "/static/viewer.js", f"/runs/run/run/episodes/{FIRST}"):
        headers = one.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_templates_have_no_inline_script_style_or_handler():
    folder = Path(__file__).parent.parent / "scenarios" / "templates"
    for page in folder.glob("*.html"):
        text = page.read_text()
        assert not re.search(
            r"<style|style=|<script(?! src)|\son\w+=|javascript:|https?://|\|\s*safe", text
        ), page


def test_hostile_text_is_only_ever_text(client, tmp_path):
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"
    browser = client(viewed.fill(tmp_path / "run", text=evil))
    for path in ("/", "/runs/run/run", f"/runs/run/run/episodes/{FIRST}", "/label/run/run?author=a",
                 f"/runs/run/run/episodes/{FIRST}?as=critic",
                 f"/diff/run?a=run/{FIRST}&b=run-fork-1/{'f' * 16}"):  # fmt: skip
        page = browser.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "{{7*7}}" in page or path == "/"


def test_viewing_changes_nothing_that_replay_sees(client, folder, superalign):
    superalign("run", "players.yaml")
    browser = client(folder / "runs" / "players-1")
    browser.get("/runs/players-1/players-1")
    assert superalign("replay", "players-1")[0] == 0
    assert superalign("verify", "runs/players-1/store.sqlite")[0] == 0
