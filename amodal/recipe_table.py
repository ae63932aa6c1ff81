"""The recipes of a method side by side, read off the text of its page: nothing waits for torch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from amodal.core.recipe import HELP, Recipe
from amodal.methods.recipes import PAPER_RECORDS, SMALL, small_encoders, small_recipe

ROOT = Path(__file__).parent
NAMES = {"RECIPE": "page", "PAPER_RECIPE": "paper"}
"""Names on a page -> what people call them."""
ON_PAGE = "see the page"


def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Name -> value of the assignments of a page, and of recipes that it takes from another."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amodal.methods."):
            taken = [alias.name for alias in node.names if alias.name in NAMES]
            file = ROOT.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
            other = constants(ast.parse(file.read_text(encoding="utf-8"))) if taken else {}
            found |= {name: other[name] for name in taken}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return found


def value_of(node: ast.expr, known: dict[str, ast.expr]) -> Any:
    """The value of a literal, or of a name of one; `ON_PAGE` for anything else."""
    if isinstance(node, ast.Name) and node.id in known:
        return value_of(known[node.id], known)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ON_PAGE


def recipes_of(name: str, tree: ast.Module) -> dict[str, dict[str, Any]]:
    """What the recipes of a method set.

    Args:
        name: Of the method.
        tree: Of its page.

    Returns:
        plain, and those of small, page and paper that there are -> field -> value.
    """
    known, plain = constants(tree), Recipe().written()
    found = {"plain": plain}
    if (small := small_recipe(name)) is not None:
        found["small"] = plain | Recipe.of(small).written()
    for constant, title in NAMES.items():
        call = known.get(constant)
        if isinstance(call, ast.Call):
            changes = {k.arg: value_of(k.value, known) for k in call.keywords if k.arg}
            found[title] = plain | changes
    return found


def recipe_rows(name: str, tree: ast.Module) -> tuple[list[str], list[list[str]]]:
    """Names of the recipes, and rows of the fields in which they differ from the plain one.

    Args:
        name: Of the method.
        tree: Of its page.

    Returns:
        The columns after the field's name; rows of the field, its value in each, and what it is.
    """
    recipes, rows = recipes_of(name, tree), []
    for field, words in HELP.items():
        values = [recipe.get(field) for recipe in recipes.values()]
        if any(_shown(value) != _shown(values[0]) for value in values):
            rows.append([field, *map(_shown, values), words])
    return [*recipes], rows


def recipe_table(name: str, tree: ast.Module) -> Table | None:
    """The table for a terminal; None where the method has the plain recipe alone."""
    columns, rows = recipe_rows(name, tree)
    if not rows:
        return None
    title = f"Recipes: {when(name, tree)}"
    table = Table("recipe", *columns, "what it is", title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def when(name: str, tree: ast.Module) -> str:
    """Which recipe and networks are taken without being asked for."""
    recipes, known, sentences = recipes_of(name, tree), constants(tree), []
    if "small" in recipes:
        sentences.append(f"small below {SMALL:,} records")
    if "page" in recipes:
        sentences.append("page " + ("else" if sentences else "for any data"))
    elif "paper" in recipes:
        large = (
            value_of(known["PAPER_RECORDS"], known) if "PAPER_RECORDS" in known else PAPER_RECORDS
        )
        sentences.append(f"paper from {large:,} records on, else plain")
    networks = [f"{kind} {network}" for kind, network in small_encoders(name).items()]
    if networks:
        sentences.append(f"networks below {SMALL:,} records: {', '.join(networks)}")
    return "; ".join(sentences)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(
            f"{name}={','.join(of) if isinstance(of, (tuple, list)) else _shown(of)}"
            for name, of in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
