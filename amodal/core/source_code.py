"""Hashes of the source of a user's own code, by which a run knows whether it has changed.

What counts is what Python runs: comments, blank lines, formatting and docstrings do not. The hash
of a function or class is over its own definition and over what that uses of its module: functions,
classes, constants and imports. Code that it imports from other files is not part of it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from amodal.core.references import definition_of

_hashed: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
"""Function or class -> its source as it was when it was first asked for.

A file that is edited while a run trains is not the code that trains."""


def source_hash(code: object) -> str:
    """The sha256 of the source of a function, class, partial, object or torch module.

    Of a `functools.partial` the bound arguments count too, of an object the class. Of a torch
    module it is the kinds of all modules in it, and the source of those that no installed package
    brings.

    Returns:
        Hexadecimal digits; "" without a source, as for code typed at a prompt.
    """
    texts = list(
        _module_texts(code) if isinstance(code, nn.Module) else _texts(definition_of(code))
    )
    if not texts:
        return ""
    while isinstance(code, partial):
        bound = json.dumps([code.args, code.keywords], default=lambda v: type(v).__qualname__)
        texts.append(bound)
        code = code.func
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def has_changed(stored: str, code: object, current: str = "") -> bool:
    """Whether code is another one than that of which a run has stored the hash.

    Args:
        stored: Of `source_hash`, or of the plain text of the definition, as runs of before have
            it. "" for code without a source, of which nothing is known.
        code: What is passed now.
        current: Its hash, if that is known.
    """
    return bool(stored) and stored not in (current or source_hash(code), _plain_hash(code))


def files_of(code: object) -> list[str]:
    """The files of a function, of the class of an object, or of a user's classes in a module."""
    if isinstance(code, nn.Module):
        definitions = [c for c in _classes(code) if _is_of_user(c)]
    else:
        definitions = [definition_of(code)]
    return [*dict.fromkeys(filter(None, map(_file_of, definitions)))]


def _file_of(definition: Any) -> str:
    try:
        return inspect.getsourcefile(definition) or ""
    except TypeError:
        return ""


def _plain_hash(code: object) -> str:
    try:
        return hashlib.sha256(inspect.getsource(definition_of(code)).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _module_texts(module: nn.Module) -> Iterator[str]:
    """The kinds of modules in a module, and the source of its user's classes."""
    for name, inner in module.named_modules():
        kind = type(inner).__qualname__
        yield f"{name}: {'BatchNorm' if 'BatchNorm' in kind else kind}"  # ours replaces torch's
    own = filter(_is_of_user, _classes(module))
    yield from sorted({text for definition in own for text in _texts(definition)})


def _classes(module: nn.Module) -> dict[type, None]:
    """The classes of a module and of those in it, each once, in order."""
    return dict.fromkeys(map(type, module.modules()))


def _is_of_user(definition: type) -> bool:
    package = definition.__module__.partition(".")[0]
    installed = {"site-packages", "dist-packages"} & set(Path(_file_of(definition)).parts)
    return package not in ("torch", "amodal") and not installed


def _texts(definition: Any) -> tuple[str, ...]:
    """The definitions of a function or class and of what it uses of its module, in one form."""
    if definition not in _hashed:
        _hashed[definition] = tuple(sorted({_normal(node) for node in _used(definition)}))
    return _hashed[definition]


def _used(definition: Any) -> list[ast.AST | str]:
    try:
        source = textwrap.dedent(inspect.getsource(definition))
    except (OSError, TypeError):
        return []
    of_module = _definitions(sys.modules.get(definition.__module__))
    name = definition.__qualname__.partition(".")[0]
    if "<" not in definition.__qualname__ and name in of_module:
        first: list[ast.AST] = [*of_module[name]]
    else:  # in a function, or a lambda
        try:
            first = [ast.parse(source)]
        except SyntaxError:  # a part of a statement
            return [source]
    seen: dict[ast.AST, None] = dict.fromkeys(first)
    waiting = [*first]
    while waiting:
        for used in _names(waiting.pop()):
            new = [node for node in of_module.get(used, ()) if node not in seen]
            seen |= dict.fromkeys(new)
            waiting += new
    return [*seen]


def _names(node: ast.AST) -> Iterable[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _definitions(module: Any) -> dict[str, list[ast.stmt]]:
    """Name -> the statements of a module that bind it."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return {}
    bound: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for part in _parts(statement):
            for name in _bound(part):
                bound.setdefault(name, []).append(part)
    return bound


def _parts(statement: ast.stmt) -> list[ast.stmt]:
    """An import of each name on its own; another statement as it is."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return [statement]
    return [type(statement)(**vars(statement) | {"names": [name]}) for name in statement.names]


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
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
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if ast.get_docstring(inner, clean=False) is not None:
                inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)
