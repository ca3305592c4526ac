"""The project's own order: one set of pins, one direction of imports, no machine's paths, nothing too large."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

from dgl_lib.study.manifest import revision

ROOT = Path(__file__).resolve().parents[1]
MB = 1 << 20

# Where the name to import is not the name to install.
DISTRIBUTION = {
    "cv2": "opencv-python-headless",
    "IPython": "ipykernel",
    "packaging": "pytest",
    "jinja2": "Jinja2",
    "PIL": "pillow",
    "yaml": "PyYAML",
}


def files(*folders: str) -> list[Path]:
    """What git has, or would add, in these folders of the project (all of it for no folder)."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    listing = subprocess.run(command, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def pins(text: str) -> dict[str, str]:
    """{canonical name: version} of lines ``name==version  # what for``; anything that is not an exact pin fails."""
    found = {}
    for line in text.splitlines():
        if pin := line.split("#")[0].strip():
            name, version = pin.split("==")
            assert canonicalize_name(name) not in found, f"{name} is pinned twice"
            found[canonicalize_name(name)] = version
    return found


def requirements() -> dict[str, str]:
    return pins((ROOT / "requirements.txt").read_text())


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(source: str) -> Iterator[str]:
    """Dotted names a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def notebook_source(path: Path) -> str:
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


# Packages


def test_every_pin_says_what_it_is_for():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+ +# \S.*", line)]


def test_conda_environment_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda, [pip] = environment["dependencies"][:-1], environment["dependencies"][-1:]
    assert pins("\n".join(pip["pip"])) == requirements()
    assert conda == ["python=3.11", "pip"]
    assert "conda-forge" in environment["channels"]


def test_constraints_agree_with_requirements():
    constraints = pins((ROOT / "constraints.txt").read_text())
    assert {name: constraints.get(name) for name in requirements()} == requirements()


def needed() -> list[str]:
    """What the installed package asks for, its extras included."""
    project = pyproject()["project"]
    return [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]


def test_pins_lie_in_the_ranges_of_the_package():
    pinned = requirements()
    for text in needed() + pyproject()["build-system"]["requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("folder", ["dgl_lib", "tests", "notebooks"])
def test_every_imported_package_is_listed(folder: str):
    if folder == "dgl_lib":  # what the installed package needs
        listed = {canonicalize_name(Requirement(text).name) for text in needed()}
    else:
        listed = set(requirements()) | set(pins((ROOT / "requirements-mutants.txt").read_text()))
    ours = {"dgl_lib", "tests", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    for path in files(folder):
        if path.suffix not in (".py", ".ipynb"):
            continue
        source = path.read_text(encoding="utf-8") if path.suffix == ".py" else notebook_source(path)
        for name in {dotted.split(".")[0] for dotted in imported(source)} - ours - sys.stdlib_module_names:
            assert canonicalize_name(DISTRIBUTION.get(name, name)) in listed, f"{path.name} imports {name}"


# The library


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_no_difference_is_printed_as_minus_zero():
    """``+z.1f`` rounds -0.04 to +0.0, where ``+.1f`` would print -0.0."""
    signed = [
        p for p in (ROOT / "dgl_lib").rglob("*.py") if re.search(r"[:{]\+\.\d+[efg]\b", p.read_text(encoding="utf-8"))
    ]
    assert not signed


def test_import_is_light():
    heavy = {"torch", "pandas", "matplotlib", "seaborn", "papermill", "IPython"}
    result = python(f"import sys, dgl_lib.app.cli; print({heavy} & set(sys.modules))")
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    "failure",
    ["RuntimeError('operator torchvision::nms does not exist')", "OSError('libtorch_cpu.so: undefined symbol')"],
)
def test_mismatched_pair_says_what_to_do(tmp_path: Path, failure: str):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {failure}\n")
    result = python("import dgl_lib.models", tmp_path)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: torch and torchvision do not load together (torch ")
    assert failure.split("'")[1] in message
    assert "requirements.txt" in message
    assert "same package index" in message
    assert "During handling" not in result.stderr


def test_one_version():
    dgl_lib = pytest.importorskip("dgl_lib")
    assert re.search(rf"^version: {re.escape(dgl_lib.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert f"## [{dgl_lib.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_package_data_is_complete():
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["dgl_lib"]
    data = [path for path in files("dgl_lib") if path.suffix != ".py"]
    assert not [p for p in data if not any(p.relative_to(ROOT / "dgl_lib").match(pattern) for pattern in patterns)]


# What is committed


MACHINE_PATH = re.compile(
    r"(?:file://|(?<![\w.-])(?:/(?:home|root|tmp|work|Users|opt|mnt|private|var|content|usr/lib|usr/local)/|[A-Za-z]:\\))\S{0,60}"
)
PICTURE = re.compile(r'"image/\w+": ?"[^"]*"|data:image/\w+;base64,[\w+/=]*')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved to /home/ada/dgl/results", True),
        ('"cwd": "/work/main"', True),
        ("'/Users/ada/x.png'", True),
        (r"C:\Users\ada", True),
        ("file:///etc/passwd", True),
        ("https://example.org/home/ada", False),
        ("results/tmp/a.csv and a/root/b", False),
        ("10:\\n20", False),
        ('"image/png": "iVBORw0KGgo\\n /tmp/abc/home/"', False),
    ],
)
def test_machine_paths_are_recognised(text: str, found: bool):
    assert bool(MACHINE_PATH.search(PICTURE.sub("", text))) == found


def test_no_path_of_a_machine():
    found = []
    for path in files("results", "notebooks", "dgl_lib/study/profiles"):
        if path.suffix in {".ipynb", ".csv", ".json", ".md", ".yaml", ".yml", ".txt", ".svg", ".html", ".log"}:
            text = PICTURE.sub("", path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(ROOT)}: {match}" for match in MACHINE_PATH.findall(text)]
    assert not found


def test_sizes():
    size = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in files()}
    assert not {k: v for k, v in size.items() if v > (10 if k.startswith("dgl_lib/models/trained/") else 4) * MB}
    assert sum(v for k, v in size.items() if k.startswith("results/")) < 25 * MB


def test_figures_inside_notebooks_have_256_colours():
    for path in (path for path in files() if path.suffix == ".ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pngs = ["".join(found["image/png"]) for found in data if "image/png" in found]
        assert pngs and {Image.open(io.BytesIO(base64.b64decode(png))).mode for png in pngs} == {"P"}, path


def test_executed_notebooks_show_no_error():
    for path in files("results"):
        if path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"], path


def test_runs_are_ignored_by_git():
    paths = [".venv/x", "results/.quick/x.png", "results/.pets.stage/x", "results/.photos/x.png", "data/x.jpg"]
    result = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *paths], capture_output=True, text=True)
    if result.returncode == 128:
        pytest.skip("not a git checkout")
    assert result.stdout.split() == paths


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "notebooks").glob("**/*.[im][dp]*")]


def words_of(page: Path) -> str:
    """A page of Markdown, or the Markdown cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"] if page.suffix == ".ipynb" else []
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown") if cells else text


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", words_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path):
    text = words_of(page)
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in (link for link in links if not re.match(r"https?:|mailto:", link)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_sections_that_pages_send_readers_to_are_there():
    """``[02](../02_x.ipynb), "A heading"`` and ``[03](../03_x.ipynb), section 2``."""
    place = re.compile(r"\(([^()\s]+\.ipynb)\), ((?:\"[^\"]+\"(?: and )?)+|sections? [\d to,and]+)")
    for page in PAGES:
        for name, where in place.findall(words_of(page)):
            headings = re.findall(r"^#+ (.+)$", words_of(page.parent / name), re.M)
            for quoted in re.findall(r'"([^"]+)"', where):
                assert any(quoted in heading for heading in headings), f"{page.name}: {name}, {quoted!r}"
            for number in [] if '"' in where else re.findall(r"\d+", where):
                assert any(re.match(rf"{number}\b", heading) for heading in headings), f"{page.name}: {name}, {number}"


def test_the_site_has_every_notebook_and_the_library():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {ROOT / "docs" / line for line in re.findall(r"^[\w./]+$", index, re.M)}
    pages = {page.resolve().with_suffix("") for page in listed}
    every = [*PAGES, *(ROOT / "docs").glob("[!i]*.md"), *(path for path in files("results") if path.suffix == ".md")]
    assert {page.with_suffix("") for page in every} <= pages
    assert all(any(page.with_suffix(end).exists() for end in (".md", ".ipynb")) for page in pages)
    modules = re.findall(r"automodule:: ([\w.]+)", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"))
    assert "dgl_lib.localize" in modules
    assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules)


def test_every_pin_installs_on_the_oldest_python_that_the_project_takes():
    """Debian 12 has 3.11.2: a pin that asks for 3.11.5 made the first command of README fail there."""
    oldest = pyproject()["project"]["requires-python"].removeprefix(">=") + ".0"
    refuse = []
    for name in pins((ROOT / "constraints.txt").read_text()) | requirements():
        try:
            asked = metadata(name)["Requires-Python"]
        except PackageNotFoundError:  # of an extra that is not installed, or of another platform
            continue
        if asked and not SpecifierSet(asked).contains(oldest):
            refuse.append(f"{name}: {asked}")
    assert not refuse


@pytest.mark.parametrize("extra", ["peers", "browser", "site"])
def test_extra_requirements_are_pinned_and_move_nothing(extra: str):
    own = pins((ROOT / f"requirements-{extra}.txt").read_text())
    constraints = pins((ROOT / "constraints.txt").read_text())
    assert not {name for name in own.keys() & constraints.keys() if own[name] != constraints[name]}


def test_containers_take_the_pins():
    assert "-r ../requirements.txt\n-c ../constraints.txt" in (ROOT / ".binder" / "requirements.txt").read_text()
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert re.search(r"^RUN .*make env$", (ROOT / "Dockerfile").read_text(), re.M)


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "The DGL reproduction authors" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "Apache-2.0"


# One command for everyone


@pytest.mark.parametrize(
    ("workflow", "job", "command"),
    [
        ("ci", "test", "bash .ci/run"),
        ("newest", "test", "make test"),
        ("newest", "browser", "make browser slides site"),
        ("newest", "long", "make commands"),
        ("site", "publish", "make site"),
    ],
)
def test_every_runner_calls_make(workflow: str, job: str, command: str):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text())["jobs"]
    assert {"run": command} in jobs[job]["steps"]


def test_continuous_integration_is_make_test():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("study", ["-m dgl_lib study creatures"]),
        ("study PROFILE=pets", ["-m dgl_lib study pets"]),
        ("study NOTEBOOKS=all", ["-m dgl_lib study creatures --all"]),
        ("study NOTEBOOKS='05 06' SET='alpha=5 seed=1'", ["--only 05 --only 06 --set alpha=5 --set seed=1"]),
        ("test", ["ruff check .", "ruff format --check .", "mypy", "lint-imports", "pytest --nbval"]),
        ("breakages", ["tests/breakages.py"]),
        ("commands", ["tests/commands.py"]),
        ("mutants", ["requirements-mutants.txt", "tests/mutants.py"]),
        ("notebooks", ["-m dgl_lib notebooks"]),
        ("lab", ["jupyterlab notebooks/00_start_here.ipynb"]),
        ("explorer", ["voila notebooks/teaching/explorer.ipynb"]),
        ("browser", ["requirements-browser.txt", "DGL_BROWSER=all", "pytest tests/browser"]),
        ("slides", ["nbconvert --to slides", "notebooks/0[0-8]*.ipynb"]),
        ("site", ["requirements-site.txt", "sphinx -W"]),
        ("clean", ["rm -rf .venv"]),
    ],
)
def test_make_targets(target: str, parts: list[str]):
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "PROFILE", "SET"}}
    command = ["make", "-C", str(ROOT), "--dry-run", *shlex.split(target)]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert not [part for part in parts if part not in shown.stdout]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_old_python_is_refused_in_one_line(tmp_path: Path):
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-C", str(ROOT), "env", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert [line for line in result.stderr.splitlines() if "make" not in line] == [
        f"error: Python 3.11 or newer is needed, {old} is Python 3.9.1: name another with PYTHON=..."
    ]
    assert not (tmp_path / "venv").exists()


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
@pytest.mark.parametrize(("start", "writes", "code"), [("clean", True, 1), ("clean", False, 0), ("dirty", True, 0)])
def test_a_session_that_changes_the_tree_fails(tmp_path: Path, start: str, writes: bool, code: int):
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n.hypothesis/\n")
    line = "__import__('pathlib').Path('left-behind.txt').touch()" if writes else "pass"
    (tests / "test_one.py").write_text(f"def test_one():\n    {line}\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message=all")
    if start == "dirty":
        (tmp_path / "work-in-progress.txt").touch()
    command = [sys.executable, "-m", "pytest", "-q", "tests"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == code, result.stdout + result.stderr
    assert ("left-behind.txt" in result.stdout) == bool(code)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_manifest_calls_changed_code_dirty_and_not_what_runs_write(tmp_path: Path):
    assert revision(tmp_path) == {"commit": None, "dirty": None}
    for name in ("results/table.csv", "dgl_lib/code.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("before")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message=all")
    (tmp_path / "results" / "table.csv").write_text("after")
    assert revision(tmp_path)["dirty"] is False and len(revision(tmp_path)["commit"]) == 40
    (tmp_path / "dgl_lib" / "code.py").write_text("after")
    assert revision(tmp_path)["dirty"] is True
