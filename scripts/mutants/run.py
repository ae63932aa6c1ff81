"""Mutants are run in forks of one process, which has imported everything."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from scripts.mutants.parts import ROOT, importers
from scripts.mutants.trees import Mutant, mutants

MEMORY = 12 << 30
"""Bytes of address space of a fork beside those of the process that it is a fork of, so that a
width of ten times ten times does no harm."""
SLACK = 5.0
"""Seconds of computing that a fork has beside ten times those of the tests without a mutant."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Args:
        outcome: "killed" by an assertion, "crashed" by any other error, "late", or "survived".
        by: The test that noticed, "" for a survivor.
        seconds: Of computing.
    """

    outcome: str
    by: str
    seconds: float


class Recorder:
    """A plug-in of pytest that keeps the first failure."""

    def __init__(self) -> None:
        self.failure: dict[str, str] = {}

    def pytest_runtest_makereport(self, item: object, call: object) -> None:
        self._note(getattr(item, "nodeid", ""), getattr(call, "excinfo", None))

    def pytest_collectreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            self.failure.setdefault("outcome", "crashed")
            self.failure.setdefault("by", getattr(report, "nodeid", ""))

    def _note(self, test: str, excinfo: object) -> None:
        kind = getattr(excinfo, "type", None)
        if kind is None or kind.__name__ in ("Skipped", "XFailed"):
            return
        # pytest.raises that saw nothing raised is an assertion too
        outcome = "killed" if kind.__name__ in ("AssertionError", "Failed") else "crashed"
        self.failure.setdefault("outcome", outcome)
        self.failure.setdefault("by", test)


class Source(importlib.abc.Loader):
    """Imports one module from a tree in place of its file."""

    def __init__(self, name: str, tree: ast.Module, file: Path):
        self.name, self.tree, self.file = name, tree, file

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.file, loader=self)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.fix_missing_locations(self.tree)
        exec(compile(tree, str(self.file), "exec"), module.__dict__)


def stale_modules(module: str, place: Path) -> list[str]:
    """A module and all loaded ones that imported from it. Packages are left out: what they import
    from their own modules is looked up anew.

    Args:
        module: Dotted name.
        place: Modules below it may import it, beside those of the repository.
    """
    loaded, near = {}, (str(ROOT), str(place))
    for name, entry in list(sys.modules.items()):
        file = getattr(entry, "__file__", None)
        if file and file.startswith(near) and ".venv" not in file and file.endswith(".py"):
            loaded[name] = Path(file).read_text(encoding="utf-8")
    stale = [n for n in importers(module, loaded) if n in sys.modules]
    return [n for n in stale if not hasattr(sys.modules[n], "__path__")]


def forget(module: str) -> None:
    """Let a module be imported anew, also by `from package import module`, which takes the
    attribute of a package that has one."""
    del sys.modules[module]
    package, _, name = module.rpartition(".")
    parent = sys.modules.get(package)
    if parent is not None and name in vars(parent):
        delattr(parent, name)


@dataclass(frozen=True)
class Ended:
    """A fork that has ended.

    Args:
        answer: What its work returned, {} if it died.
        seconds: Of computing, which on a busy machine is less than those on the clock.
        late: Whether it was stopped for taking too many.
    """

    answer: dict[str, str]
    seconds: float
    late: bool


def in_fork(work: Callable[[], dict[str, str]], seconds: float) -> Ended:
    """Run something in a fork of this process.

    Args:
        work: What it returns must be short.
        seconds: Of computing. A fork that only waits is stopped after twenty times as many.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as paper:
        child = os.fork()
        if not child:
            try:
                # the first limit is a signal that kills, the second one cannot be caught
                limit = math.ceil(seconds)
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
                memory = address_space() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
                silence()
                json.dump(work(), paper)
                paper.flush()
            finally:
                os._exit(0)
        end = time.monotonic() + 20 * seconds
        while True:
            done, status, usage = os.wait4(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        paper.seek(0)
        text = paper.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    took = usage.ru_utime + usage.ru_stime
    return Ended(json.loads(text) if text else {}, took, killed)


def address_space() -> int:
    """Bytes that this process maps. Threads and memory pools of libraries map gigabytes that they
    never touch, and a fork starts with them. 0 where the system does not say."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return 0
    return int(pages.read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def silence() -> None:
    """Nothing of the tests' output is shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    # whoever captures output has put other files in their place
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")


def pytest_answer(tests: Sequence[str]) -> dict[str, str]:
    """Run tests up to the first failure. Returns the outcome and the test."""
    import pytest

    # found by entry points they take longer than a page's tests, which need none of them
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    recorder = Recorder()
    arguments = [*tests, "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    code = pytest.main(arguments, plugins=[recorder])
    if code == pytest.ExitCode.OK:
        return {"outcome": "survived", "by": ""}
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return {"outcome": "no tests", "by": ""}
    return {"outcome": "crashed", "by": ""} | recorder.failure


class Target:
    """A module whose mutants are run.

    Args:
        module: Dotted name.
        file: Of its source.
        only: The definitions to change, None for all.
        tests: Files, relative to the repository.
        calls: See `trees.mutants`.
    """

    def __init__(
        self,
        module: str,
        file: Path,
        only: set[str] | None,
        tests: Sequence[str],
        calls: Sequence[ast.Call] = (),
    ):
        self.module, self.file, self.tests = module, file, list(tests)
        self.tree = ast.parse(file.read_text(encoding="utf-8"))
        self.stale: list[str] = []
        names = vars(importlib.import_module(module))
        shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        self.mutants = mutants(self.tree, shown.as_posix(), only, names, calls)

    def answer(self, mutant: Mutant | None) -> dict[str, str]:
        """In the fork: run the tests with a mutant, or without."""
        if mutant is not None:
            mutant.apply()
        for name in self.stale or [self.module]:
            forget(name)
        sys.meta_path.insert(0, Source(self.module, self.tree, self.file))
        return pytest_answer(self.tests)

    def verdict(self, mutant: Mutant | None, seconds: float) -> Verdict:
        """Run the tests with a mutant, or without.

        Args:
            seconds: Of computing that they may take.
        """
        self.warm()
        ended = in_fork(lambda: self.answer(mutant), seconds)
        if ended.late:
            return Verdict("late", "", ended.seconds)
        outcome = ended.answer.get("outcome", "crashed")
        return Verdict(outcome, ended.answer.get("by", ""), ended.seconds)

    def warm(self) -> None:
        """Import what the tests import, so that no fork has to."""
        if self.stale:
            return
        ended = in_fork(lambda: self.answer(None) | {"loaded": " ".join(sys.modules)}, 600.0)
        for name in ended.answer.get("loaded", "").split():
            if name not in sys.modules and not name.startswith("__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        self.stale = stale_modules(self.module, self.file.parent)
        gc.collect()
        gc.freeze()

    def baseline(self) -> float:
        """Seconds of computing of the tests without a mutant.

        Raises:
            SystemExit: If they fail, so that no mutant could be told from the page.
        """
        verdict = self.verdict(None, 600.0)
        if verdict.outcome != "survived":
            raise SystemExit(
                f"{' '.join(self.tests)} must pass before mutants are run; "
                f"{verdict.by or 'pytest'}: {verdict.outcome}"
            )
        return verdict.seconds

    def limit(self) -> float:
        """Seconds of computing that a mutant may take."""
        return 10 * self.baseline() + SLACK
