"""Mutants of a syntax tree, without running any."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.mutants.operators import OPERATORS, SPEED, Place, called

LEFT_ALONE = {"RECIPE", "__all__"}
SKIPPED_FIELDS = {"annotation", "returns", "type_params", "type_comment", "decorator_list"}


@dataclass(frozen=True)
class Mutant:
    """One change of a module's tree.

    Args:
        file: Relative to the repository.
        line: Of the change.
        within: The definitions around it, such as `Page.losses`.
        operator: Name of the operator.
        before: The statement as it is; of a compound one, its first line.
        after: As the mutant has it.
        parent: The node that is changed.
        slot: Its field and, where that is a list, the place in it.
        replacement: Stands there in the mutant.
    """

    file: str
    line: int
    within: str
    operator: str
    before: str
    after: str
    parent: ast.AST
    slot: tuple[str, int | None]
    replacement: ast.AST

    @property
    def name(self) -> str:
        """The same for the same change, also when lines above it move."""
        text = f"{self.file}|{self.within}|{self.operator}|{self.before}|{self.after}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def apply(self) -> ast.AST:
        """Put the change into the tree. Returns what stood there."""
        return set_slot(self.parent, self.slot, self.replacement)


def set_slot(parent: ast.AST, slot: tuple[str, int | None], node: ast.AST) -> ast.AST:
    """Set a child of a node. Returns the child that it had."""
    name, index = slot
    if index is None:
        old: ast.AST = getattr(parent, name)
        setattr(parent, name, node)
        return old
    children = getattr(parent, name)
    old, children[index] = children[index], node
    return old


def mutants(
    tree: ast.Module,
    file: str,
    only: Collection[str] | None = None,
    names: Mapping[str, Any] = {},
    calls: Collection[ast.Call] = (),
) -> list[Mutant]:
    """All mutants of a module.

    Args:
        tree: Of the module; mutants refer to its nodes.
        file: Its name.
        only: The definitions to change, None for all.
        names: The module's global names.
        calls: In what belongs to the page; the default of an argument that each of them passes is
            left alone, as nothing reads it.
    """
    found, known, unread = [], set(), unread_defaults(tree, calls)
    for place, slot in places(tree, (), names, only):
        if id(place.node) in unread:
            continue
        for operator in OPERATORS:
            for replacement in operator(place):
                mutant = describe(place, slot, operator.__name__, replacement, file)
                where = (mutant.line, mutant.after, getattr(place.node, "col_offset", 0))
                # another operator may have made the same change
                if mutant.before != mutant.after and where not in known:
                    known.add(where)
                    found.append(mutant)
    return found


def unread_defaults(tree: ast.Module, calls: Collection[ast.Call]) -> set[int]:
    """The ids of defaults of functions and classes that some calls name, and all of them pass; and
    of the names of arguments that none of them passes."""
    passed: dict[str, list[set[str | None]]] = {}
    for call in calls:
        passed.setdefault(called(call), []).append({k.arg for k in call.keywords})
    unread: set[int] = set()
    for statement in tree.body:
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        used = passed.get(statement.name, [])
        for function in ast.walk(statement):
            builds = function is statement or getattr(function, "name", "") == "__init__"
            if isinstance(function, ast.FunctionDef) and builds:
                arguments = function.args
                for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
                    always = bool(used) and all(parameter.arg in names for names in used)
                    if default is not None and (always or parameter.arg in SPEED):
                        unread |= {id(n) for n in ast.walk(default)}
                    # it is always its default, so there is nothing to ignore
                    if used and not any(parameter.arg in names for names in used):
                        unread |= {id(n) for n in ast.walk(function) if is_read(n, parameter.arg)}
    return unread


def is_read(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)


def describe(
    place: Place, slot: tuple[str, int | None], operator: str, replacement: ast.AST, file: str
) -> Mutant:
    """A mutant with its texts."""
    near = [n for n in (*place.parents, place.node) if isinstance(n, (ast.stmt, ast.arg))]
    statement = near[-1]
    # compared is all of a statement, but a compound one is shown by its first lines
    before = text(statement)
    if statement is place.node:
        after = text(replacement)
    else:
        old = set_slot(place.parent, slot, replacement)
        after = text(statement)
        set_slot(place.parent, slot, old)
    line = getattr(place.node, "lineno", statement.lineno)
    named = (ast.FunctionDef, ast.ClassDef)
    within = ".".join(p.name for p in place.parents if isinstance(p, named))
    return Mutant(
        file, line, within, operator, *shortened(before, after), place.parent, slot, replacement
    )


def text(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node))


def shortened(before: str, after: str) -> tuple[str, str]:
    """The lines in which two texts differ, with the first line of both if that is another."""
    a, b = before.splitlines(), after.splitlines()
    if len(a) == len(b):
        differ = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
        if differ:
            rows = range(differ[0], differ[-1] + 1)
            return ("\n".join(a[i].strip() for i in rows), "\n".join(b[i].strip() for i in rows))
    return before if len(a) < 4 else "\n".join([*a[:3], "..."]), "\n".join(b[:3])


def places(
    node: ast.AST,
    parents: tuple[ast.AST, ...],
    names: Mapping[str, Any],
    only: Collection[str] | None = None,
) -> Iterator[tuple[Place, tuple[str, int | None]]]:
    """Every node that may be changed, and the slot of its parent that it stands in."""
    parents = (*parents, node)
    for name, value in ast.iter_fields(node):
        if name in SKIPPED_FIELDS:
            continue
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if not isinstance(child, ast.AST) or skipped(child, node, name):
                continue
            if only is not None and len(parents) == 1 and not set(defined(child)) & set(only):
                continue
            slot = (name, i if isinstance(value, list) else None)
            if not isinstance(child, (ast.operator, ast.expr_context, ast.cmpop, ast.unaryop)):
                yield Place(child, parents, names), slot
                yield from places(child, parents, names)


def defined(node: ast.AST) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def skipped(node: ast.AST, parent: ast.AST, name: str) -> bool:
    """Whether a node is left alone: texts for people, types, checks, imports."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert, ast.Raise, ast.JoinedStr)):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if only_raises(node):
        return True
    if isinstance(parent, ast.Module) and isinstance(node, (ast.Assign, ast.AnnAssign)):
        return bool(LEFT_ALONE & set(defined(node))) or not isinstance(
            node.value, (ast.Constant, ast.Tuple, ast.Dict, ast.List)
        )
    if isinstance(parent, ast.Call) and parent.args and node is parent.args[0]:
        return getattr(parent.func, "id", "") in ("cast", "TypeVar")
    return isinstance(parent, ast.ClassDef) and name in ("bases", "keywords")


def only_raises(node: ast.AST) -> bool:
    """Whether it only raises: an `if`, or the call of a function named `check…` or `refuse…`."""
    if isinstance(node, ast.Expr) and called(node.value).startswith(("check", "refuse")):
        return True
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and all(isinstance(statement, ast.Raise) for statement in node.body)
    )
