"""Every malformed scenario ends with one message: where, which key, what would be right.

The first line of each file in `malformed/` says what is expected: `# LINE KEY | REMEDY`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superalign.scenarios.scenario import Loaded
from superalign.store import BadInput

HERE = Path(__file__).parent
FILES = sorted((HERE / "malformed").glob("*.yaml"))
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EXPECTED = re.compile(rb"# (\d+) (\S*) \| (.+)")


def holds(path, expected, code, out, err):
    """The contract of every error in a file."""
    line, key, remedy = expected
    assert (code, out) == (2, "")
    message = re.match(rf"superalign: {re.escape(str(path))}:(\d+):(\d+): ", err)
    assert message, err
    assert (int(message[1]), int(message[2]) >= 1) == (line, True), err
    assert err[message.end() :].startswith(f"{key}: " if key else ""), err
    assert remedy in err
    assert err.count("superalign: ") == 1
    assert "Traceback" not in err


def expected_of(path):
    found = EXPECTED.match(path.read_bytes())
    assert found, f"{path}: its first line says nothing"
    return int(found[1]), found[2].decode(), found[3].decode()


def test_there_are_enough_of_them():
    assert len(FILES) >= 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_malformed_scenario_is_told_where_and_why(path, folder, superalign):
    copy = Path(shutil.copy(path, folder / path.name))
    holds(copy, expected_of(path), *superalign("run", copy, "--out", folder / "runs"))


@pytest.mark.parametrize("name", ["unknown-key", "python-object", "protocol-syntax-error"])
def test_so_it_is_in_a_process_of_its_own(name, folder):
    copy = Path(shutil.copy(HERE / "malformed" / f"{name}.yaml", folder / f"{name}.yaml"))
    words = [sys.executable, "-P", "-m", "superalign.scenarios.cli", "run", str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    holds(copy, expected_of(copy), done.returncode, done.stdout, done.stderr)


def test_a_file_of_two_megabytes_is_not_read(folder, superalign):
    path = folder / "huge.yaml"
    path.write_text("name: x\n" + "# filler\n" * 222_222)
    expected = 1, "", "keep data in files beside the scenario"
    holds(path, expected, *superalign("check", path))


@pytest.mark.parametrize("name", ["gone.yaml", "empty", "text.txt/x.yaml"])
def test_a_file_that_cannot_be_read_is_named(name, folder, superalign):
    code, out, err = superalign("check", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"superalign: {name}: ")
    assert err.endswith("; give the path of a scenario file\n")


def test_a_malformed_scenario_leaves_no_folder_behind(folder, superalign):
    shutil.copy(HERE / "malformed" / "unknown-key.yaml", folder / "x.yaml")
    superalign("run", "x.yaml")
    assert not (folder / "runs").exists()


GOOD = (HERE.parent / "scenarios" / "arithmetic.yaml").read_bytes()
EDITS = st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 9), st.binary(max_size=4)))
YAML = st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@`,?=~ \n\t<0.e+\0\ud800\x85"))


def read(raw, folder):
    """A scenario is read, or refused with its place; nothing else may happen."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(raw)
    try:
        Loaded.read(path)
    except BadInput as error:
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", str(error)), error


@FUZZ
@given(EDITS)
def test_a_damaged_scenario_is_read_or_refused(folder, edits):
    raw = GOOD
    for at, less, more in edits:
        raw = raw[:at] + more + raw[at + less :]
    read(raw, folder)


@FUZZ
@given(YAML)
def test_any_text_is_read_or_refused(folder, text):
    read(text.encode(errors="surrogatepass"), folder)
    read(b"name: x\nmodels:\n  " + text.encode(errors="replace"), folder)
