"""Settings all tests share, and the check that a test session leaves the working tree clean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

# Before anything imports torch or matplotlib. One thread: the sessions of `make test` run side by side, one a core.
# The kernels that check the notebooks inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

settings.register_profile("study", derandomize=True, deadline=None, print_blob=True)  # the same examples every time
settings.load_profile("study")

WAS_CLEAN = pytest.StashKey[bool]()
CHANGED = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[1]


def git_status(folder: Path) -> str | None:
    """What git reports as changed or new in a folder, one line a file; None where it is no git checkout's root."""
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=all"]
    try:
        result = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return result.stdout if result.returncode == 0 else None


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # once, not in every xdist worker
        session.config.stash[WAS_CLEAN] = git_status(session.config.rootpath) == ""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session whose tests or notebooks changed a clean working tree; one with work in progress is not judged."""
    if session.config.stash.get(WAS_CLEAN, False):
        changed = git_status(session.config.rootpath)
        if changed:
            session.config.stash[CHANGED] = changed
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if changed := config.stash.get(CHANGED, ""):
        terminalreporter.section("error: the session changed the working tree, which was clean before", red=True)
        terminalreporter.write_line(changed)
