"""Whatever is asked of the viewer, by its own OpenAPI description: never a server error."""

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from starlette.testclient import TestClient

from superalign.scenarios.viewer import create_app

SPEC = importlib.util.spec_from_file_location("viewed", Path(__file__).parent / "viewed.py")
assert SPEC and SPEC.loader
viewed = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(viewed)

KNOWN = {"store": "run", "run": "run", "id": "0" * 16}
WORDS = {"a": f"run/{'0' * 16}", "b": f"run-fork-1/{'f' * 16}", "ref": f"run/{'0' * 16}"}
HERE = {"host": "127.0.0.1", "origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    app = create_app([viewed.fill(tmp_path_factory.mktemp("fuzz") / "run")])
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as browser:
        app.state.library.refresh()
        yield browser


def fuzz(viewer: TestClient, examples: int) -> Counter[int]:
    """How many answers had each status. Every case of every route is asked three times: as it is,
    of a store that is there, and of an episode that is there."""
    found: Counter[int] = Counter()
    schema = schemathesis.openapi.from_dict(viewer.get("/openapi.json").json())
    results: Any = schema.get_all_operations()
    for result in results:
        operation = result.ok()
        drawn = operation.path.endswith("/report")  # half a second each
        asking(viewer, operation, min(examples, 40) if drawn else examples, found)()
    return found


def asking(viewer: TestClient, operation: Any, examples: int, found: Counter[int]) -> Any:
    quiet: list[Any] = list(HealthCheck)

    @given(case=operation.as_strategy())
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)
    def ask(case):
        query, body = case.query or {}, case.body if isinstance(case.body, dict) else None
        for parts, words in (({}, {}), (KNOWN, {}), (KNOWN, WORDS)):
            path = operation.path
            for name, value in {**(case.path_parameters or {}), **parts}.items():
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
            asked = {**query, **{name: words[name] for name in query if name in words}}
            answer = viewer.request(operation.method, path, params=asked, data=body, headers=HERE)
            found[answer.status_code] += 1
            assert answer.status_code < 500, (operation.label, path, asked, body, answer.text)

    return ask


def test_no_request_makes_a_server_error(viewer):
    found = fuzz(viewer, 12)
    assert found[200] > 30


@pytest.mark.slow
def test_no_request_of_ten_thousand_makes_a_server_error(viewer, capsys):
    found = fuzz(viewer, 600)
    with capsys.disabled():
        print(f"\n{found.total()} requests: {dict(sorted(found.items()))}")
    assert found.total() >= 10_000
