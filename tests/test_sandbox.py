"""The sandbox: no escape succeeds, a missing wall is noticed, and nothing runs without it."""

import shutil

import pytest

from superalign.scenarios import sandbox as module
from superalign.scenarios.escapes import ESCAPES, escaped
from superalign.scenarios.sandbox import LIMITS, TMP, Ended, Sandbox, sandbox
from superalign.store import BadInput


@pytest.fixture(scope="module")
def box():
    try:
        return sandbox()
    except BadInput as error:
        pytest.skip(str(error))


@pytest.fixture
def weakened(box):
    """`weakened(without)`: a sandbox of its own, whose command lacks these words."""

    def build(*without: str) -> Sandbox:
        made = Sandbox()
        made._command = [word for word in made._command if word not in without]
        return made

    return build


def test_none_of_the_twelve_escapes_succeeds(box):
    assert len(ESCAPES) == 12
    assert escaped(box) == []


@pytest.mark.parametrize(
    ("without", "found"),
    [
        (["--seccomp", "{seccomp}"], ["a socket"]),
        (["--seccomp", "{seccomp}", "--unshare-all"], ["loopback", "a socket"]),
        (["--disable-userns"], ["a user namespace"]),
        ([f"--as={LIMITS['as']}"], ["memory"]),
        ([f"--nproc={LIMITS['nproc']}"], ["processes without end"]),
        ([f"--fsize={LIMITS['fsize']}"], ["the disk"]),
        (["--size", str(TMP)], ["the disk"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_missing_wall_is_found(without, found, weakened):
    assert set(found) <= set(escaped(weakened(*without)))


def test_a_process_that_outlives_its_sandbox_is_found(weakened):
    out = escaped(weakened("--unshare-all", "--die-with-parent"))
    assert "its time" in out


def test_files_that_can_be_read_are_found(weakened):
    made = weakened()
    at = made._command.index("--remount-ro")
    made._command[at:at] = ["--ro-bind", "/etc", "/etc"]
    assert escaped(made) == ["reading files"]


def test_a_sandbox_in_which_nothing_lives_holds_against_nothing(weakened):
    made = weakened()
    made._command = [*made._command[: made._command.index("prlimit")], "false"]
    assert escaped(made) == list(ESCAPES)


def test_a_sandbox_that_leaks_is_refused(box, monkeypatch):
    monkeypatch.setattr(module, "_seccomp", lambda: b"")  # an empty filter lets nothing start
    with pytest.raises(BadInput, match="a first program did not run"):
        sandbox.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(module, "LIMITS", {**LIMITS, "nproc": 4096})
    with pytest.raises(BadInput, match="processes without end got out of it"):
        sandbox.__wrapped__()


def test_without_bubblewrap_nothing_runs_and_the_remedy_is_named(monkeypatch):
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else there(name))
    with pytest.raises(BadInput, match="bubblewrap is missing; apt-get install bubblewrap"):
        Sandbox()


def test_without_libseccomp_nothing_runs(monkeypatch):
    def missing(name, **more):
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    with pytest.raises(BadInput, match="apt-get install libseccomp2"):
        module._seccomp()


@pytest.mark.parametrize(
    ("source", "output", "status"),
    [
        ("print('hi')", "hi\n", 0),
        ("import sys; print(sys.stdin.read())", "given\n", 0),
        ("raise SystemExit(3)", "", 3),
        ("import os; os.kill(os.getpid(), 9)", "", 137),
        ("print('\\N{GRINNING FACE}')", "\N{GRINNING FACE}\n", 0),
    ],
)
def test_what_a_program_says_and_how_it_ends_comes_back(source, output, status, box):
    assert box.run(source, b"given") == Ended(output, status)


def test_an_endless_program_is_ended(box):
    assert box.run("print('on', flush=True)\nwhile True: pass", seconds=2) == Ended("on\n", None)


def test_endless_output_stops_at_the_limit(box):
    ended = box.run("while True: print('x' * 1000)")
    assert ended.status not in (0, None)
    assert len(ended.output) <= LIMITS["fsize"]


def test_no_run_finds_what_another_left(box):
    box.run("open('/tmp/left', 'w').write('x')")
    assert box.run("import os; print(os.listdir('/tmp'))") == Ended("[]\n", 0)


def test_programs_do_not_inherit_open_files(box, tmp_path):
    with (tmp_path / "secret").open("w+") as secret:
        source = f"import os\nos.fstat({secret.fileno()})"
        assert "Bad file descriptor" in box.run(source).output
