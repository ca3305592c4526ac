"""Break the core's code in small ways, one at a time: do its unit tests notice?

python tests/mutants.py              -> results/tests/mutants.csv and mutants.md
python tests/mutants.py maps taps    only these modules; the other rows stay as they are

cosmic-ray (requirements-mutants.txt) knows the ways; two more are added here. Its own runner starts Python anew for
every mutant, and importing torch takes longer than most of the tests. Here each is tried in a fork of a process that
has torch loaded. The mutants are a sample: places in each module drawn with a seed, and one way to break each place.
Annotations are left alone, since no test can tell.
"""

from __future__ import annotations

import ast
import importlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from breakages import ROOT, copied

RESULTS = ROOT / "results" / "tests" / "mutants.csv"
JUDGED = ROOT / "tests" / "survivors.csv"  # why a mutant that no test notices may stay: module, change, judgement
PLACES = 20  # of each module
SEED = 0
SECONDS = 150  # of processor time for one mutant's tests, several times what they take; on the clock five times that
WORKERS = 2
NEEDED = 95.0  # percent killed
#: Each module's own unit tests; its doctests are run as well.
TESTS = {
    "localize": ["localize", "taps"],
    "taps": ["taps", "localize"],
    "maps": ["maps"],
    "training": ["training"],
    "metrics/boxes": ["boxes", "metrics_streams"],
    "metrics/pixels": ["metrics"],
    "metrics/streams": ["metrics_streams"],
    "metrics/intervals": ["metrics", "evaluate_compare"],
    "metrics/faithfulness": ["faithfulness"],
    "metrics/selectivity": ["selectivity"],
}
#: Methods that give another value of the same kind, so that without them the program still runs.
DROPPED = {"abs", "clamp", "clone", "detach", "double", "float", "long", "relu", "requires_grad_"}
#: What takes long to import, and nothing of the project's own.
HEAVY = ["cv2", "hypothesis.extra.numpy", "pandas", "pydantic", "safetensors", "torch", "torchvision.models"]


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    change: str  # the line, with ``[what was -> what becomes of it]``
    source: str


# ------------------------------------------------------------------------------------------------------ what is broken


def operators() -> list[Any]:
    """cosmic-ray's ways to break code, those that need no settings, and two of our own."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.operators.operator import Operator
    from cosmic_ray.operators.provider import OperatorProvider

    class CallDropped(Operator):
        """A statement ``f(x)`` becomes nothing."""

        def mutation_positions(self, node: Any) -> Iterator[tuple]:
            if node.type == "atom_expr" and node.parent.type == "simple_stmt" and calls(node):
                yield node.start_pos, node.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            return get_ast(node.get_first_leaf().prefix + "...").children[0]

        @classmethod
        def examples(cls) -> tuple:
            return ()

    class MethodDropped(CallDropped):
        """``x.f()`` becomes ``x``, for some methods."""

        def mutation_positions(self, node: Any) -> Iterator[tuple]:
            if node.type == "name" and node.value in DROPPED and node.parent.type == "trailer":
                yield node.start_pos, node.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            chain = node.parent.parent.children
            at = chain.index(node.parent)
            del chain[at : at + 2]
            return node

    def calls(node: Any) -> bool:
        return node.children[-1].get_first_leaf().value == "("

    known = OperatorProvider()
    return [*(known[name]() for name in known if sensible(name)), CallDropped(), MethodDropped()]


def sensible(name: str) -> bool:
    """Whether one of cosmic-ray's operators needs no settings, and does not put & | ^ << >> for + - * / or back: on
    floats that raises at once."""
    kind, *words = name.split("_")
    bits = [word.startswith("Bit") or word.endswith("Shift") for word in words]
    return not kind.startswith("Variable") and (kind != "ReplaceBinaryOperator" or bits[0] == bits[1])


def mutants(module: str) -> list[Mutant]:
    """The sample of a module, in the order of its lines."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (ROOT / "dgl_lib" / f"{module}.py").read_text()
    skipped = annotations(source)
    ways: dict[tuple, list[tuple]] = defaultdict(list)  # by the place they break
    for operator in operators():
        for k, node in enumerate(ast_nodes(get_ast(source))):
            separator = node.parent is not None and node.parent.type == "parameters"  # the * before keyword arguments
            for index, (start, stop) in enumerate(operator.mutation_positions(node)):
                if not separator and not any(a <= start and stop <= b for a, b in skipped):
                    ways[start, stop].append((operator, k, index))

    draw, found = random.Random(f"{SEED} {module}"), []
    for place in draw.sample(sorted(ways), len(ways)):
        operator, k, index = draw.choice(ways[place])
        node = list(ast_nodes(tree := get_ast(source)))[k]
        siblings = node.parent.children
        at, changed = siblings.index(node), operator.mutate(node, index)
        siblings[at : at + 1] = [] if changed is None else [changed]
        if len(found) < PLACES and compiles(broken := tree.get_code()):
            found.append(compared(module, source, broken))
    return sorted(found, key=lambda mutant: mutant.line)


def annotations(source: str) -> list[tuple]:
    """First and last position, (line, column), of every annotation."""
    nodes = [getattr(node, name, None) for node in ast.walk(ast.parse(source)) for name in ("annotation", "returns")]
    return [((x.lineno, x.col_offset), (x.end_lineno, x.end_col_offset)) for x in nodes if x is not None]


def compiles(source: str) -> bool:
    """Whether Python takes it for a program; there is nothing to test in what it does not."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def compared(module: str, source: str, broken: str) -> Mutant:
    """A mutant, with what changes in a few words."""
    head = shared(source, broken)
    head -= len(re.search(r"\w*\Z", source[:head])[0])  # from the start of a word
    tail = shared(source[head:][::-1], broken[head:][::-1])
    tail -= len(re.match(r"\w*", source[len(source) - tail :])[0])
    was, becomes = source[head : len(source) - tail], broken[head : len(broken) - tail]
    line = source[:head].count("\n") + 1 + (len(was) - len(was.lstrip("\n")))
    before, after = source[:head].rpartition("\n")[2][-40:], source[len(source) - tail :].partition("\n")[0][:40]
    change = f"{before}[{was.strip()} -> {becomes.strip()}]{after}"
    return Mutant(module, line, " ".join(change.split()), broken)


def shared(a: str, b: str) -> int:
    """With how many characters both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# ------------------------------------------------------------------------------------------------------- are they seen


class CheapFirst:
    """Runs of training that are killed and taken up again come last: their tests take the longest by far."""

    def pytest_collection_modifyitems(self, items: list) -> None:
        items.sort(key=lambda item: any(word in item.name for word in ("killed", "disk", "every_network")))


def start(copy: Path, module: str, source: str, *, bytecode: bool = False) -> int:
    """Put ``source`` in the module's place in a copy of the project, and run its tests in a fork, whose id is given."""
    path = copy / "dgl_lib" / f"{module}.py"
    path.write_text(source)
    if pid := os.fork():
        return pid
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(5 * SECONDS)  # where it waits and does not work
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.dont_write_bytecode = not bytecode  # what one mutant leaves must not be taken for the next one's
    os.chdir(copy)
    sys.path[0] = str(copy)
    os.environ["PYTHONPATH"] = str(copy)
    tests = [f"tests/test_{name}.py" for name in TESTS[module]]
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"dgl_lib/{module}.py", *tests], [CheapFirst()]))


def outcome(status: int) -> str:
    """What a fork's end says: exit codes are pytest's, and below zero a signal's."""
    code = os.waitstatus_to_exitcode(status)
    if code in (0, 1, 2):
        return ("survived", "killed", "killed")[code]
    if code < 0:
        return "killed by time" if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else "killed"
    raise RuntimeError(f"pytest ended with {code}")


def tried(sample: list[Mutant], copies: list[Path]) -> Iterator[tuple[Mutant, str]]:
    """Every mutant with its outcome, several at a time, each in a copy of its own."""
    free, running = list(copies), {}
    for mutant in [*sample, *[None] * len(copies)]:
        if running and (mutant is None or not free):
            pid, status = os.wait()
            done, copy = running.pop(pid)
            (copy / "dgl_lib" / f"{done.module}.py").write_text((ROOT / "dgl_lib" / f"{done.module}.py").read_text())
            free.append(copy)
            yield done, outcome(status)
        if mutant is not None:
            copy = free.pop()
            running[start(copy, mutant.module, mutant.source)] = mutant, copy


# --------------------------------------------------------------------------------------------------------- the report


def page(table: pd.DataFrame) -> str:
    """The table in short, as Markdown: figures of each module, and every survivor with its judgement."""
    table = table.assign(killed=table["outcome"] != "survived")
    by_module = table.groupby("module", sort=False)["killed"].agg(["size", "sum"])
    by_module.loc["all"] = by_module.sum()
    by_module = by_module.assign(percent=(100 * by_module["sum"] / by_module["size"]).round(1))
    by_module.columns = ["mutants", "killed", "percent"]
    left = table.loc[~table["killed"], ["module", "line", "change", "judgement"]]
    left["change"] = "`" + left["change"].str.replace("|", "\\|") + "`"
    how = f"Up to {PLACES} places of each module, drawn with seed {SEED}, and one change at each, by `make mutants`."
    lines = [f"# {by_module.loc['all', 'percent']} % of the core's mutants are killed by its unit tests"]
    lines += [f"{how} All of them stand in [`mutants.csv`](mutants.csv).", by_module.to_markdown()]
    lines += ["Those that no test notices, and why they may stay:", left.to_markdown(index=False) + "\n"]
    return "\n\n".join(lines)


def saved(rows: list[tuple], module: str) -> pd.DataFrame:
    """The table on disk with the rows of one module in the place of those it had."""
    columns = ["module", "line", "change", "outcome"]
    table = pd.DataFrame(rows, columns=columns)
    if RESULTS.exists():
        known = pd.read_csv(RESULTS, keep_default_na=False)
        table = pd.concat([known.loc[known["module"] != module, columns], table])
    table["module"] = pd.Categorical(table["module"], list(TESTS))
    table = table.sort_values(["module", "line", "change"]).astype({"module": str})
    table = table.merge(pd.read_csv(JUDGED, keep_default_na=False), "left", ["module", "change"])
    table["judgement"] = table["judgement"].where(table["outcome"] == "survived").fillna("")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(RESULTS, index=False)
    RESULTS.with_suffix(".md").write_text(page(table))
    return table


def main(modules: list[str]) -> int:
    """Try the mutants of these modules, none for all; write the table. 1 if too many stay, or one without a reason."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # none is needed, and they take seconds to load
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copies = [copied(Path(folder).resolve() / str(i)) for i in range(WORKERS)]
        for module in modules or TESTS:
            whole = (ROOT / "dgl_lib" / f"{module}.py").read_text()
            for pid in [start(copy, module, whole, bytecode=True) for copy in copies]:
                if outcome(os.waitpid(pid, 0)[1]) != "survived":
                    raise SystemExit(f"the tests of {module} are red without any change")
            rows = []
            for mutant, what in tried(mutants(module), copies):
                print(f"{what}: {mutant.module}:{mutant.line}: {mutant.change}", flush=True)
                rows.append((*mutant[:3], what))
            table = saved(rows, module)
    left = table[table["outcome"] == "survived"]
    print(f"{len(table)} mutants, {len(left)} survived, {(left['judgement'] == '').sum()} of them not judged")
    return int(100 * len(left) > (100 - NEEDED) * len(table) or (left["judgement"] == "").any())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
