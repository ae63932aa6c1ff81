"""The package as its files: rooms, imports, names and messages, by ast."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "amodal"


@cache
def files() -> dict[Path, ast.Module]:
    """Every file of the package, relative to the repository, and what it says."""
    found = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in found}


def room(module: tuple[str, ...]) -> str:
    """The folder right below the package, "" for a module beside the rooms."""
    return module[1] if len(module) > 2 or (PACKAGE / "/".join(module[1:2])).is_dir() else ""


def imports(file: Path, tree: ast.Module) -> Iterator[tuple[tuple[str, ...], ast.AST]]:
    """(module, statement) of each import of a module of the package, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = file.with_suffix("").parts[: -node.level]
                names = [".".join((*base, *(node.module or "").split("."))).strip(".")]
            else:
                names = [node.module or ""]
            for name in names:
                parts = tuple(name.split("."))
                for alias in node.names:  # `from amodal.nn import pooling` imports a module
                    yield (*parts, alias.name) if is_module((*parts, alias.name)) else parts, node
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split(".")), node


def is_module(parts: tuple[str, ...]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.with_suffix(".py").is_file() or path.is_dir()


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Statements under `if TYPE_CHECKING`, which nothing runs."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found |= set(ast.walk(node))
    return found


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of strings that stand as statements."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(name: str) -> list[str]:
    """The parts of a snake_case or CamelCase name, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
