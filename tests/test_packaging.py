"""The rooms lie at the root and are imported as `superalign.<room>`, in a wheel too."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from superalign.protocols import shipped

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("agents", "learners", "protocols", "scenarios", "store")
HEAVY = {"torch", "transformers", "trl", "vllm", "peft", "accelerate", "datasets", "matplotlib"}


def python(code: str, *, cwd: Path = ROOT, **env: str) -> str:
    words = [sys.executable, "-P", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env or None)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_packages_are_the_rooms():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == ["superalign", *(f"superalign.{room}" for room in ROOMS)]
    folders = PROJECT["tool"]["setuptools"]["package-dir"]
    assert {folders[f"superalign.{room}"] for room in ROOMS} == set(ROOMS)


def test_every_folder_with_python_at_the_root_is_known():
    known = {*ROOMS, "tests", "benchmarks", "build"}
    found = {p.parent.name for p in ROOT.glob("[!.]*/*.py")}
    assert found <= known
    assert not (ROOT / "superalign").exists()
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_one_typed_package_without_packages_inside(room):
    assert (ROOT / room / "__init__.py").is_file()
    assert (ROOT / room / "py.typed").is_file()
    data = ROOT / "store" / "migrations"  # which alembic runs by their paths
    others = [p for p in (ROOT / room).rglob("*.py") if p.parent not in (ROOT / room, data)]
    assert others == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_s_link_for_static_tools_points_to_it(room):
    link = ROOT / ".typing" / "superalign" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room


def test_the_rooms_load_nothing_heavy_and_go_by_their_full_names():
    imports = "; ".join(f"import superalign.{room}" for room in ROOMS)
    unwanted = HEAVY | set(ROOMS)
    assert python(f"{imports}; import sys; print(*({unwanted!r} & set(sys.modules)))") == ""
    assert "agents" not in sys.modules


def test_the_version_is_that_of_the_metadata():
    assert python("import superalign; print(superalign.__version__)") == version("superalign")
    assert version("superalign") == PROJECT["project"]["version"]


def test_the_command_is_installed():
    (script,) = PROJECT["project"]["scripts"].items()
    assert script == ("superalign", "superalign.scenarios.cli:main")
    done = subprocess.run(
        [Path(sys.executable).parent / "superalign", "list", "protocols", "--json"],
        capture_output=True,
        text=True,
    )
    assert '"name": "critique"' in done.stdout


def test_every_dependency_is_pinned_in_the_constraints():
    text = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=\[]", line)[0].lower() for line in wanted}
    assert sorted(names - pinned) == []


def imported(path: Path) -> set[str]:
    """The top names of all that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    named = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0]
    return {name.split(".")[0] for name in plain + named}


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_imports_is_installed_with_it(room):
    ours = {re.split(r"[<>=\[]", line)[0] for line in PROJECT["project"]["dependencies"]}
    of = {
        "ruamel": "ruamel.yaml",
        "markupsafe": "jinja2",
        "tokenizers": "transformers",
        "sklearn": "scikit-learn",
    }
    of["starlette"] = "fastapi"
    names = set().union(*map(imported, (ROOT / room).glob("*.py")))
    foreign = {of.get(n, n) for n in names - set(sys.stdlib_module_names)} - {"superalign"}
    assert foreign - ours == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the tree and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*ROOMS, ".typing"):
        shutil.copytree(ROOT / name, folder / "tree" / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    build = [*words, "--disable-pip-version-check", "-w", folder, folder / "tree"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_every_file_of_the_rooms(wheel):
    for room in ROOMS:
        files = [
            p for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        ]
        missing = [p for p in files if not (wheel / "superalign" / p.relative_to(ROOT)).is_file()]
        assert missing == []


def test_a_wheel_holds_nothing_else(wheel):
    top = {path.name for path in wheel.iterdir()}
    assert {name.split("-")[0] for name in top} == {"superalign"}
    inner = {path.name for path in (wheel / "superalign").iterdir()}
    assert inner == {*ROOMS, "__init__.py"}
    assert [path for path in wheel.rglob("*") if path.is_symlink()] == []


def test_a_wheel_works_where_there_is_no_checkout(wheel, tmp_path):
    code = (
        "import superalign.scenarios as s; from superalign.protocols import shipped;"
        "print(s.__path__[0], *shipped())"
    )
    found = python(code, cwd=tmp_path, PYTHONPATH=str(wheel))
    assert found == f"{wheel / 'superalign' / 'scenarios'} {' '.join(shipped())}"


# What the README shows.


def test_the_readme_shows_the_protocol_and_scenario_that_are_tested():
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / "tests" / "duet.py").read_text().strip() in readme
    lines = (ROOT / "scenarios" / "arithmetic.yaml").read_text().splitlines()
    assert all(line in readme for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_a_document_leads_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []
