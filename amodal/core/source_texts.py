"""The source of a function or class and of what it uses of its module, in one form.

What counts is what Python runs: comments, blank lines, formatting and docstrings do not.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

_known: WeakKeyDictionary[Any, tuple[tuple[str, ...], tuple[str, ...]]] = WeakKeyDictionary()
"""Function or class -> its source as it was when it was first asked for.

A file that is edited while a run trains is not the code that trains."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom


def texts(definition: Any) -> tuple[str, ...]:
    """The definitions of a function or class and of what it uses: functions, classes and imports
    sorted; then the statements that bind or change anything else, in their order."""
    return _both(definition)[0]


def texts_of_before(definition: Any) -> tuple[str, ...]:
    """As runs of before have it: sorted, and without what changes a value that is bound already."""
    return _both(definition)[1]


def _both(definition: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if definition not in _known:
        now, before = _used(definition, "now"), _used(definition, "before")
        _known[definition] = _in_one_form(now), tuple(sorted({_normal(n) for n in before}))
    return _known[definition]


def _in_one_form(nodes: list[ast.AST | str]) -> tuple[str, ...]:
    """Definitions sorted, as it does not matter where they stand; statements in their order."""
    movable = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    times: dict[str, int] = {}
    for node in nodes:
        for name in _bound(node) if isinstance(node, ast.stmt) else ():
            times[name] = times.get(name, 0) + 1
    moved: list[str] = []
    fixed: list[str] = []
    for node in sorted(nodes, key=_place):
        once = isinstance(node, movable) and all(times[n] == 1 for n in _bound(node))
        (moved if once else fixed).append(_normal(node))
    return (*sorted(set(moved)), *fixed)


def _place(node: ast.AST | str) -> tuple[int, int, str]:
    """Where a node stands; the parts of an import stand in one place."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0), _normal(node)


def _used(definition: Any, form: str) -> list[ast.AST | str]:
    try:
        source = textwrap.dedent(inspect.getsource(definition))
    except (OSError, TypeError):
        return []
    statements = _statements(sys.modules.get(definition.__module__))
    of_module = statements.bound if form == "before" else statements.now
    name = definition.__qualname__.partition(".")[0]
    first: list[ast.AST] = []
    if "<" not in definition.__qualname__ and name in statements.bound:
        first += of_module[name]
    else:  # in a function, or a lambda
        try:
            first.append(ast.parse(source))
        except SyntaxError:  # a part of a statement
            return [source]
    if form == "now":  # whatever it binds may be used
        first += statements.stars
    seen: dict[ast.AST, None] = dict.fromkeys(first)
    waiting = [*first]
    while waiting:
        for used in _names(waiting.pop()):
            new = [node for node in of_module.get(used, ()) if node not in seen]
            seen |= dict.fromkeys(new)
            waiting += new
    return [*seen]


@dataclass
class _Statements:
    """The statements of a module by the names that they concern.

    Args:
        bound: Name -> those that bind it, a compound one whole.
        now: Name -> those that bind or change it.
        stars: Those that import all of another module.
    """

    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)
    now: dict[str, list[ast.stmt]] = field(default_factory=dict)
    stars: list[ast.stmt] = field(default_factory=list)


def _statements(module: Any) -> _Statements:
    found = _Statements()
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return found
    for statement in tree.body:
        for part in _parts(statement):
            for name in _bound(part):
                found.bound.setdefault(name, []).append(part)
    changed = partial(_changed, scope=_Scope(tree))
    for statement in _of_program(tree.body):
        for part in _parts(statement):
            if isinstance(part, ast.ImportFrom) and part.names[0].name == "*":
                found.stars.append(part)
            for name in _bound(part) | changed(part):
                found.now.setdefault(name, []).append(part)
    return found


def _of_program(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, with those below `if __name__ == "__main__"` one by one: beside what concerns
    the code, it is there that runs are started."""
    for statement in body:
        if isinstance(statement, ast.If) and "__name__" in _names(statement.test):
            yield from _of_program([*statement.body, *statement.orelse])
        else:
            yield statement


class _Scope:
    """What the names of a module are: functions, with the names that a call changes, and data."""

    def __init__(self, tree: ast.Module):
        self.imported: set[str] = set()
        self.functions: dict[str, set[str]] = {}
        self.data: set[str] = set()
        for statement in _of_program(tree.body):
            if isinstance(statement, Import):
                self.imported |= _bound(statement)
            elif not isinstance(statement, Function | ast.ClassDef):
                self.data |= _bound(statement)
        for statement in tree.body:
            if isinstance(statement, Function):
                shared = {
                    n for w in ast.walk(statement) if isinstance(w, ast.Global) for n in w.names
                }
                self.functions[statement.name] = shared | _stored(statement, self.imported)


def _changed(statement: ast.stmt, scope: _Scope) -> set[str]:
    """The names whose values a statement of a module changes, or may change by a call."""
    if isinstance(statement, Function | ast.ClassDef):  # what a call of it changes: see below
        return set()
    names = _stored(statement, scope.imported)
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in scope.functions:
                passed = [*node.args, *(k.value for k in node.keywords)]
                names |= scope.functions[node.func.id]
                names |= {n for value in passed for n in _names(value)} & scope.data
    return names


def _stored(node: ast.AST, imported: set[str]) -> set[str]:
    """The names x of x.a = …, x[a] = …, del x and x.method(…) in a node."""
    names: set[str] = set()
    for inner in ast.walk(node):
        match inner:
            case (
                ast.Attribute(ctx=ast.Store() | ast.Del())
                | ast.Subscript(ctx=ast.Store() | ast.Del())
            ):
                names |= _root(inner)
            case ast.Name(id=name, ctx=ast.Del()):
                names.add(name)
            case ast.Call(func=ast.Attribute() as method):
                names |= _root(method) - imported
    return names


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _parts(statement: ast.stmt) -> list[ast.stmt]:
    """An import of each name on its own; another statement as it is."""
    if not isinstance(statement, Import):
        return [statement]
    return [type(statement)(**vars(statement) | {"names": [name]}) for name in statement.names]


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module binds."""
    if isinstance(statement, Function | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {a.asname or a.name.partition(".")[0] for a in aliases}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def _normal(node: ast.AST | str) -> str:
    """Source without comments, formatting and docstrings."""
    if isinstance(node, str):
        return node
    for inner in ast.walk(node):
        if isinstance(inner, Function | ast.ClassDef):
            if ast.get_docstring(inner, clean=False) is not None:
                inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)
