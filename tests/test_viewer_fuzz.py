"""Whatever is asked of the viewer, by its own OpenAPI description: never a server error."""

import importlib.util
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
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


def fuzz(viewer: TestClient, examples: int) -> dict[int, int]:
    """Statuses of all answers, each operation asked `examples` times, three ways: anything at all,
    known stores with anything else, and known episodes with anything else."""
    found: dict[int, int] = {}
    schema = schemathesis.openapi.from_dict(viewer.get("/openapi.json").json())
    for result in schema.get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy()

        @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @schemathesis.hypothesis.given(case=strategy) if False else _given(strategy)
        def ask(case, operation=operation):
            for parts, words in (({}, {}), (KNOWN, {}), (KNOWN, WORDS)):
                names = {**(case.path_parameters or {}), **parts}
                path = operation.path.format(**{k: _quoted(v) for k, v in names.items()})
                query = {**(case.query or {}), **{k: v for k, v in words.items() if k in (case.query or {})}}
                body = case.body if isinstance(case.body, dict) else None
                answer = viewer.request(
                    operation.method.upper(), path, params=query, data=body, headers=HERE
                )
                found[answer.status_code] = found.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, (operation.label, path, query, body)

        ask()
    return found
