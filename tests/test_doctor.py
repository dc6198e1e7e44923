"""`superalign doctor` says what may go wrong here, and changes nothing."""

import json
import runpy
import sqlite3
from importlib.metadata import requires
from pathlib import Path

import pytest

from superalign.scenarios import doctor
from superalign.scenarios.doctor import examine, file_system
from superalign.scenarios.sandbox import sandbox
from superalign.store import BadInput

HERE = Path(__file__).parent
FakeServer = runpy.run_path(str(HERE / "fake_server.py"))["FakeServer"]


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.fixture
def told(monkeypatch):
    """`told(target)` -> name -> finding, of the target alone."""
    for check in ("python", "packages", "sqlite", "sandbox", "device", "disk"):
        monkeypatch.setattr(doctor, check, lambda: ())
    return lambda target: by_name(examine(str(target)))


# The machine.


def test_the_machine_is_described(superalign, monkeypatch):
    monkeypatch.setattr(doctor, "sandbox", lambda: ())  # the next test plays its escapes
    code, out, _ = superalign("doctor", "--json")
    facts = json.loads(out)
    found = {finding["name"]: finding for finding in facts["findings"]}
    assert code == (0 if facts["ok"] else 1)
    assert found["sqlite"]["value"] == sqlite3.sqlite_version
    assert {"superalign", "python", "torch", "machine", "disk here"} <= set(found)
    code, out, _ = superalign("doctor")
    assert sqlite3.sqlite_version in out


def test_the_sandbox_is_tried(monkeypatch):
    def refuse():
        raise BadInput("no sandbox: bubblewrap is missing")

    (finding,) = doctor.sandbox()
    try:
        sandbox()
        assert finding.state == "ok"
    except BadInput as error:
        assert finding.state == "risk" and str(error) in finding.says
    monkeypatch.setattr("superalign.scenarios.sandbox.sandbox", refuse)
    (finding,) = doctor.sandbox()
    assert (finding.state, finding.value) == ("risk", "none")
    assert "bubblewrap is missing" in finding.says


@pytest.mark.parametrize(
    ("version", "state"), [((3, 40, 1), "risk"), ((3, 51, 2), "risk"), ((3, 51, 3), "ok")]
)
def test_an_sqlite_that_may_corrupt_its_log_is_a_risk(version, state, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    assert [finding.state for finding in doctor.sqlite()] == [state]


def test_packages_are_held_against_what_is_required(monkeypatch):
    wanted = ["torch==1.0", "no-such-package>=1", 'nothing-here>=2; extra == "postgres"']
    wanted += ['pytest>=999; extra == "dev"', *(requires("superalign") or ())]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    found = list(doctor.packages())
    assert [f.state for f in found if f.name in ("torch", "no-such-package")][:2] == ["bad"] * 2
    assert by_name(found)["nothing-here"].state == "ok"
    assert "pytest" not in by_name(found)


@pytest.mark.parametrize(
    ("kind", "free", "state"),
    [
        ("ext4", 2**40, "ok"),
        ("nfs4", 2**40, "risk"),
        ("fuse.sshfs", 2**40, "risk"),
        ("xfs", 5, "risk"),
    ],
)
def test_network_disks_and_full_ones_are_a_risk(kind, free, state, monkeypatch):
    monkeypatch.setattr(doctor, "file_system", lambda folder: kind)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("", (), {"free": free}))
    assert [finding.state for finding in doctor.disk()] == [state]


def test_the_file_system_is_that_of_the_nearest_mount():
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        pytest.skip("this kernel does not tell what is mounted")
    assert file_system(Path("/proc")) == "proc"
    kinds = {line.split(" ")[2] for line in mounts.read_text().splitlines()}
    assert file_system(Path.cwd()) in kinds


# A store.


def test_a_store_of_today_is_well(store, path, make, told):
    make.put(store)
    store.put_turn("run", "open", make.turn())
    store.flush()
    found = told(path)
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["contents"].value == "1 runs, 1 episodes ended, 1 begun"
    assert "--resume" in found["contents"].says
    assert found["file"].value.endswith("journal mode wal")


def test_an_older_store_is_told_how_to_upgrade(tmp_path, told):
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript((HERE / "schema_4.sql").read_text())
    db.close()
    found = told(tmp_path)  # a run's folder
    assert (found["schema"].value, found["schema"].state) == ("4", "bad")
    assert f"superalign migrate {path}" in found["schema"].says
    assert found["contents"].value.startswith("1 runs, 2 episodes")


def test_what_is_no_store_is_bad_and_no_traceback(tmp_path, told, superalign):
    (tmp_path / "text.sqlite").write_text("text" * 2000)
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE things (name TEXT)")
    db.close()
    for name in ("text", "other"):
        assert told(tmp_path / f"{name}.sqlite")["schema"].state == "bad"
        assert superalign("doctor", tmp_path / f"{name}.sqlite")[0] == 1
    code, _, err = superalign("doctor", tmp_path / "none.sqlite")
    assert (code, "no store here" in err) == (2, True)


@pytest.mark.postgres
def test_a_server_is_asked_for_its_version_and_its_safety(postgres, told):
    from superalign.store import Store

    place = postgres()
    Store.open(place, write=True).close()
    found = told(place)
    assert (found["postgresql"].state, found["encoding"].value) == ("ok", "UTF8")
    assert found["fsync"].state == "risk"  # the tests' server does without
    assert found["user"].state == "risk"


# A scenario's endpoints.


def scenario(folder: Path, url: str | None) -> Path:
    text = (HERE / "players.yaml").read_text()
    if url is not None:
        served = f"{{engine: openai, model: tiny, base_url: '{url}', timeout: 2.0}}"
        text = text.replace("  truth:", f"  big: {served}\n  truth:")
        text = text.replace("critic: {model: truth}", "critic: {model: big}")
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def test_an_endpoint_s_honesty_is_tried(tmp_path, told):
    with FakeServer(honours=("seed", "json")) as server:
        finding = told(scenario(tmp_path, server.url))["big"]
        assert server.calls
    assert (finding.state, finding.value) == ("risk", "tiny honours seed, json; context 4096")
    assert "does not honour logprobs" in finding.says
    with FakeServer() as server:
        assert told(scenario(tmp_path, server.url))["big"].state == "ok"


def test_an_endpoint_that_does_not_answer_is_bad(tmp_path, told, monkeypatch):
    monkeypatch.setattr("superalign.agents.endpoint.PAUSE", 0.01)
    with FakeServer() as server:
        path = scenario(tmp_path, server.url)
    assert (told(path)["big"].state, told(path)["big"].value) == ("bad", "cannot be used")
    path.write_text(path.read_text().replace("timeout:", "api_key_env: NO_SUCH_KEY, timeout:"))
    assert "$NO_SUCH_KEY is empty" in told(path)["big"].says


def test_a_scenario_without_servers_says_so(tmp_path, told):
    assert told(scenario(tmp_path, None))["endpoints"].value.startswith("none")
