"""What counts as a change of a user's own code, and what does not."""

import functools
import hashlib
import inspect
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from amodal.core.code_values import file_of, is_of_user
from amodal.core.references import FILE_PREFIX, load_reference
from amodal.core.source_code import files_of, has_changed, source_hash

FILE = '''
import math, os
from functools import partial

SCALE = 2.0
OTHER = 3


def helper(x):
    return x * SCALE


class Base:
    def losses(self, x):
        return helper(x)


class Mine(Base):
    "What it is."

    def features(self, x):
        # a comment
        return math.sqrt(x)


def mine(encoder, *, width=4):
    """What it does."""
    return Mine()


def unrelated():
    return OTHER


short = lambda encoder: Mine()
bound = partial(mine, width=6)


def outer():
    def inner(encoder):
        return helper(encoder)

    return inner


inner = outer()
'''
CHANGES = {  # what counts -> (from, to)
    "a constant that a helper uses": ("SCALE = 2.0", "SCALE = 2.5"),
    "a helper of a base class": ("return x * SCALE", "return x + SCALE"),
    "a base class": ("return helper(x)\n", "return -helper(x)\n"),
    "another import": ("import math, os", "import cmath as math, os"),
    "the body": ("return math.sqrt(x)", "return math.sqrt(x) + 1"),
}
NO_CHANGES = {
    "a comment": ("# a comment", "# another one"),
    "a docstring": ('"""What it does."""', '"""What it does, in more words."""'),
    "the docstring of a class": ('"What it is."', '"Another."'),
    "blank lines": ("    return Mine()\n", "\n\n    return Mine()\n"),
    "formatting": ("def mine(encoder, *, width=4)", "def mine(\n    encoder,\n    *, width=4\n)"),
    "an unrelated function": ("return OTHER", "return OTHER + 1"),
    "an unrelated import": ("import math, os", "import math, sys"),
    "a line above": ("SCALE = 2.0", "# more\n\nSCALE = 2.0"),
}


@pytest.fixture
def hashes(tmp_path):
    """Name -> hash, of a fresh import of a file of this content."""

    def of(content, *names):
        file = tmp_path / "page.py"
        file.write_text(content, encoding="utf-8")
        for module in [m for m in sys.modules if m.startswith(FILE_PREFIX)]:
            del sys.modules[module]
        loaded = [load_reference(f"{file}:{name}") for name in names]
        return [source_hash(one) for one in loaded]

    return of


NAMES = ("mine", "Mine", "short", "bound")


@pytest.mark.parametrize("change", CHANGES)
def test_what_counts(hashes, change):
    before, after = CHANGES[change]
    assert before in FILE
    then, now = hashes(FILE, *NAMES), hashes(FILE.replace(before, after), *NAMES)
    assert all(len(h) == 64 for h in then)
    assert not set(then) & set(now)


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_count(hashes, change):
    before, after = NO_CHANGES[change]
    assert before in FILE
    assert hashes(FILE, *NAMES) == hashes(FILE.replace(before, after), *NAMES)


def test_partials_lambdas_and_functions_in_functions(hashes):
    then = hashes(FILE, "bound", "mine", "short", "inner")
    assert len(set(then)) == 4
    more = FILE.replace("width=6", "width=7").replace("lambda encoder: Mine()", "lambda e: Mine()")
    now = hashes(more, "bound", "mine", "short", "inner")
    assert [a == b for a, b in zip(then, now)] == [False, True, False, True]
    deep = FILE.replace("return helper(encoder)", "return helper(encoder) + 1")
    assert hashes(deep, "inner") != then[3:]
    assert hashes(FILE.replace("x * SCALE", "x"), "inner") != then[3:]


class Block(nn.Module):
    def forward(self, x):
        return x


def test_a_module_is_its_kinds_and_the_users_classes():
    def net(*layers):
        return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)

    assert source_hash(net(nn.ReLU())) == source_hash(net(nn.ReLU()))
    assert source_hash(net(nn.ReLU())) != source_hash(net(nn.GELU()))
    assert files_of(net(nn.ReLU())) == [] and files_of(net(Block())) == [__file__]


def test_a_users_class_inside_a_module_counts(hashes):
    content = (
        "from torch import nn\nclass Inner(nn.Module):\n    def forward(self, x): return x + 1\n"
        "net = nn.Sequential(Inner())\n"
    )
    then = hashes(content, "net")
    assert then == hashes(content, "net") != hashes(content.replace("x + 1", "x - 1"), "net")


def test_hashes_of_before_are_read():
    plain = hashlib.sha256(inspect.getsource(Block).encode()).hexdigest()
    assert not has_changed(plain, Block()) and not has_changed(plain, functools.partial(Block))
    assert has_changed("0" * 64, Block()) and not has_changed("", Block())


def test_code_without_a_source():
    names = {}
    exec("def typed(encoder): ...", names)
    assert source_hash(names["typed"]) == "" and has_changed("0" * 64, names["typed"])


def test_a_file_that_is_edited_later_is_not_the_code_that_runs(tmp_path):
    """What is imported goes on running as it was; so does its hash."""
    (tmp_path / "page.py").write_text(FILE, encoding="utf-8")
    mine = load_reference(f"{tmp_path / 'page.py'}:mine")
    then = source_hash(mine)
    (tmp_path / "page.py").write_text(
        FILE.replace("return Mine()", "return None"), encoding="utf-8"
    )
    assert source_hash(mine) == then


MADE = """
CFG = {}
CFG["t"] = 0.5
CFG.update(more=1)
T = 1.0
T = 2.0
OTHER = {}
OTHER["x"] = 1


def make(t):
    def inner(encoder):
        return t
    return inner


class Maker:
    def __init__(self, t):
        self.t = [t]
    def __call__(self, encoder):
        return self.t


class Flags: pass


Flags.on = True


def setup():
    global LATER
    LATER = 3


setup()
m = make(0.5)
o = Maker(0.5)
twice = make(make(0.5))
method = Maker(0.5).__call__


def reads(encoder):
    return CFG["t"], T, Flags.on, LATER


if __name__ == "__main__":
    CFG["t"] = 7
    print(reads, 1)
"""
ALL = ("m", "o", "twice", "method", "reads")
MORE = {  # (from, to) -> the names whose hash it changes
    ("m = make(0.5)", "m = make(9.0)"): {"m"},
    ("o = Maker(0.5)", "o = Maker(9.0)"): {"o"},
    ("make(make(0.5))", "make(make(9.0))"): {"twice"},
    ("Maker(0.5).__call__", "Maker(9.0).__call__"): {"method"},
    ('CFG["t"] = 0.5', 'CFG["t"] = 5.0'): {"reads"},
    ("update(more=1)", "update(more=2)"): {"reads"},
    ("T = 1.0\nT = 2.0", "T = 2.0\nT = 1.0"): {"reads"},
    ("Flags.on = True", "Flags.on = False"): {"reads"},
    ("LATER = 3", "LATER = 4"): {"reads"},
    ('["t"] = 7', '["t"] = 8'): {"reads"},
    ("CFG = {}", "from math import *\nCFG = {}"): set(ALL),
    ("\nsetup()", "\nsetup()\nsetup()"): {"reads"},
    ('OTHER["x"] = 1', 'OTHER["x"] = 2'): set(),
    ("print(reads, 1)", "print(reads, 2)"): set(),
    ("m = make(0.5)\n", "m = make(0.5)\nprint(T, CFG)\n"): set(),
}


@pytest.mark.parametrize("change", MORE, ids=[after for _, after in MORE])
def test_what_code_was_made_with_counts(hashes, change):
    before, after = change
    assert before in MADE
    then, now = hashes(MADE, *ALL), hashes(MADE.replace(before, after), *ALL)
    assert all(len(h) == 64 for h in then)
    assert {n for n, a, b in zip(ALL, then, now) if a != b} == MORE[change]


NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 6), factor
    def forward(self, x):
        return self.layer(x) * self.factor

plain = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1))
own = nn.Sequential(Net(1.0))
"""


def test_what_layers_were_made_with_counts(hashes):
    then = hashes(NETS, "plain", "own")
    assert hashes(NETS, "plain", "own") == then  # with other weights
    slope = hashes(NETS.replace("LeakyReLU(0.1)", "LeakyReLU(0.2)"), "plain", "own")
    factor = hashes(NETS.replace("Net(1.0)", "Net(2.0)"), "plain", "own")
    assert [a == b for a, b in zip(then, slope)] == [False, True]
    assert [a == b for a, b in zip(then, factor)] == [True, False]


def test_bound_arrays_and_numbers_count():
    def mine(encoder, *, weights=None): ...

    values = [
        np.float32(0.5),
        np.float32(0.7),
        np.ones(3),
        np.zeros(3),
        torch.ones(3),
        torch.zeros(3),
    ]
    bound = [source_hash(functools.partial(mine, weights=value)) for value in values]
    assert len({*bound}) == len(values)
    assert source_hash(functools.partial(mine, weights=np.ones(3))) == bound[2]


def test_values_that_refer_to_themselves_end():
    loop = []
    loop.append(loop)

    def mine(encoder):
        return loop, mine

    assert source_hash(mine) == source_hash(mine) != ""


def test_hashes_without_values_are_those_of_before(hashes, tmp_path):
    """A run of before has the hash of the source alone, and is not said to have changed."""
    (then,) = hashes(FILE, "mine")
    loaded = load_reference(f"{tmp_path / 'page.py'}:mine")
    before = hashlib.sha256("\n".join(BEFORE).encode()).hexdigest()
    assert before != then and not has_changed(before, loaded)
    (tmp_path / "page.py").write_text(
        FILE.replace("return helper(x)\n", "return -helper(x)\n"), encoding="utf-8"
    )
    for module in [m for m in sys.modules if m.startswith(FILE_PREFIX)]:
        del sys.modules[module]
    assert has_changed(before, load_reference(f"{tmp_path / 'page.py'}:mine"))


BEFORE = [
    "SCALE = 2.0",
    "class Base:\n\n    def losses(self, x):\n        return helper(x)",
    "class Mine(Base):\n\n    def features(self, x):\n        return math.sqrt(x)",
    "def helper(x):\n    return x * SCALE",
    "def mine(encoder, *, width=4):\n    return Mine()",
    "import math",
]
"""What `mine` uses, sorted."""


def test_a_hash_is_the_same_in_every_process(tmp_path):
    """Also where it is over sets, over two statements of a line, and over names bound twice."""
    file = tmp_path / "page.py"
    file.write_text(
        "A = 1; B = 2; C = {'x', 'y', 'z'}; D = 4\nimport math, os, json as math, sys as os\n"
        "def make(*names):\n    def inner(encoder):\n"
        "        return names, A, B, C, D, math, os\n    return inner\n"
        "m = make({'one', 'two', 'three'}, {'a': {1.5, 'b'}}, print, math.loads, object())\n",
        encoding="utf-8",
    )
    code = (
        "from amodal.core.source_code import source_hash; "
        "from amodal.core.references import load_reference; "
        f"print(source_hash(load_reference({str(file)!r} + ':m')))"
    )
    hashed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashed) == 1 and len(hashed.pop().strip()) == 64


def test_a_class_of_an_interactive_session_has_no_file(monkeypatch):
    session = types.ModuleType("__main__")  # as in a notebook: without __file__
    monkeypatch.setitem(sys.modules, "__main__", session)
    exec("class Mine: pass", vars(session))
    assert file_of(session.Mine) == "" and is_of_user(session.Mine)
