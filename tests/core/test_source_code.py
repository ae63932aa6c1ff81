"""What counts as a change of a user's own code, and what does not."""

import functools
import hashlib
import inspect
import sys

import pytest
from torch import nn

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
        file.write_text(content)
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
    (tmp_path / "page.py").write_text(FILE)
    mine = load_reference(f"{tmp_path / 'page.py'}:mine")
    then = source_hash(mine)
    (tmp_path / "page.py").write_text(FILE.replace("return Mine()", "return None"))
    assert source_hash(mine) == then
