"""Two processes on the CPU give what one gives; the shares of more of them fit together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from dgl_lib import several
from dgl_lib.app.cli import commands
from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.study import paths, runner
from dgl_lib.study.profile import read_profile

SCRIPT = Path(__file__).with_name("several_run.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(folder: Path, *before: str, killed: bool = False) -> subprocess.CompletedProcess[str]:
    given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{paths.project_root()}{os.pathsep}{SCRIPT.parent}"}
    command = [sys.executable, *before, str(SCRIPT), str(folder), *["killed"] * killed]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=300)


def test_two_processes_train_and_score_as_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    for name, before in (("one", []), ("two", TORCHRUN)):
        done = run(tmp_path / name, *before)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "run/classifier.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
    history = [pd.read_csv(tmp_path / name / "run/history.csv").drop(columns="seconds") for name in ("one", "two")]
    np.testing.assert_allclose(*history, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "one/scores.csv").read_bytes() == (tmp_path / "two/scores.csv").read_bytes()


def test_a_killed_process_ends_the_run_with_its_message(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    done = run(tmp_path, *TORCHRUN, killed=True)
    assert done.returncode != 0
    assert "this process is made to fail" in done.stderr
    assert not (tmp_path / "run/classifier.safetensors").exists()


@given(count=st.integers(0, 40), world=st.integers(1, 9))
def test_shares_fit_together(count: int, world: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(several, "WORLD", world)
        shares = []
        for rank in range(world):
            patch.setattr(several, "RANK", rank)
            shares.append(several.share(range(count)))
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Numbered:
    """Each item tells who made it. The thirteenth is broken."""

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index == 13:
            raise UserError("13.jpg: no such file")
        return index, os.getpid()


@pytest.mark.parametrize(
    ("device", "count", "workers"), [("cpu", 8, 0), ("meta", 3, 0), ("meta", 6, 1), ("meta", 8, 2)]
)
def test_beside_a_gpu_workers_make_many_items_ahead(device: str, count: int, workers: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(several, "CORES", 4)
    steps = [range(k, k + 1 + k % 2) for k in range(count)]
    made = list(several.loader(Numbered(), steps, torch.device(device)))
    assert [[index for index, _ in step] for step in made] == [list(step) for step in steps]
    processes = {process for step in made for _, process in step}
    assert len(processes) == max(1, workers) and (os.getpid() in processes) == (workers == 0)


@pytest.mark.parametrize("here", [1, 2, 4, 8])
def test_processes_of_one_machine_share_its_cores(here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "CORES", 4)
    monkeypatch.setattr(several, "HERE", here)
    made = list(several.loader(Numbered(), [[0]] * 16, torch.device("meta")))
    assert len({process for [(_, process)] in made}) == max(1, 4 // here)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_a_worker_refuses_is_told_in_one_line(device: str) -> None:
    with pytest.raises(UserError, match=r"^13\.jpg: no such file$"):
        list(several.loader(Numbered(), [[index] for index in range(20)], torch.device(device)))


def test_rows_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows of three processes, of which the last two have one row less than the first."""
    rows = torch.arange(14.0).reshape(7, 2)

    class Three:
        def all_gather(self, mine: torch.Tensor) -> torch.Tensor:
            padded = [torch.cat([rows[k::3], torch.zeros(3 - len(rows[k::3]), 2)]) for k in range(3)]
            assert torch.equal(mine, padded[1])
            return torch.stack(padded)

    monkeypatch.setattr(several, "WORLD", 3)
    monkeypatch.setattr(several, "fabric", Three)
    assert torch.equal(several.gathered(rows[1::3], 7), rows)


def test_nproc_runs_the_same_command_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, list[str]]] = []
    arguments = ["train", "quick", "--nproc", "2"]
    monkeypatch.setattr(sys, "argv", ["dgl", *arguments])
    monkeypatch.setattr(several, "start", lambda count, given: calls.append((count, given)) or 7)
    assert CliRunner().invoke(commands, arguments).exit_code == 7 and calls == [(2, arguments)]
    done = CliRunner().invoke(commands, [*arguments, "--set", "epochs=0"])  # a mistake ends before there are several
    assert isinstance(done.exception, UserError) and len(calls) == 1


def test_nproc_localizes_in_every_process_and_runs_notebooks_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[object] = []
    arguments = ["study", "quick", "--nproc", "2", "--only", "03"]
    monkeypatch.setattr(sys, "argv", ["dgl", *arguments])
    monkeypatch.setattr(several, "start", lambda count, given: did.append((count, given)) or 0)
    monkeypatch.setattr(runner, "run", lambda profile, **how: did.append(how["until"]) or Path("there"))
    shares = [*arguments, "--until", "evaluate"]
    assert CliRunner().invoke(commands, arguments).output == "done: there\n" and did == [(2, shares), "notebooks"]
    monkeypatch.setattr(several, "WORLD", 2)  # within one of the two
    done = CliRunner().invoke(commands, shares)
    assert (done.exit_code, done.output) == (0, "") and did[2:] == ["evaluate"]


def test_notebooks_are_refused_to_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "WORLD", 2)
    monkeypatch.setattr(several, "wait", lambda: pytest.fail("it begins"))
    with pytest.raises(UserError, match=r"^notebooks: 2 processes given, one allowed; .* --until evaluate$"):
        runner.run(read_profile("quick"), name="quick")


@pytest.mark.parametrize(
    ("fails", "with_"),
    [
        ("sys.exit(3)", 3),
        ("pass", 0),
        ("os.kill(os.getpid(), 9)", "^signal 9 ended one of 2 processes; the same command"),
    ],
)
def test_what_ends_a_process_is_told(fails: str, with_: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m dgl_lib`` finds this one here. Its second process fails, and the first then ends too."""
    waits = "(time.sleep(60), open('waited', 'w'))" if fails != "pass" else "None"
    lines = ["import os, sys, time", f"{waits} if os.environ['RANK'] == '0' else None", fails]
    write_text(tmp_path / "dgl_lib/__init__.py", "")
    write_text(tmp_path / "dgl_lib/__main__.py", "\n".join([*lines, "assert sys.argv[1:] == ['a', '--nproc']"]))
    monkeypatch.chdir(tmp_path)
    if isinstance(with_, int):
        assert several.start(2, ["a", "--nproc"]) == with_
    else:
        with pytest.raises(UserError, match=with_):
            several.start(2, ["a", "--nproc"])
    assert not (tmp_path / "waited").exists()


def test_whoever_ends_the_first_process_ends_all(tmp_path: Path) -> None:
    note = "open(os.environ['RANK'], 'w').write(str(os.getpid()))"
    write_text(tmp_path / "dgl_lib/__init__.py", "")
    write_text(tmp_path / "dgl_lib/__main__.py", f"import os, time; {note}; time.sleep(300)")
    start = f"import sys; sys.path.insert(0, {str(paths.project_root())!r})\n"
    start += "from dgl_lib.several import start; start(2, [])"
    with subprocess.Popen([sys.executable, "-P", "-c", start], cwd=tmp_path, stderr=subprocess.PIPE) as first:
        while not all((tmp_path / rank).is_file() and (tmp_path / rank).read_text() for rank in "01"):
            assert first.poll() is None
            time.sleep(0.1)
        first.terminate()
        assert first.wait(60) != 0
    assert not any(psutil.pid_exists(int((tmp_path / rank).read_text())) for rank in "01")
