"""The catalogue: the rows of catalog.toml, and the docstrings and options of pages of methods.

Pages are parsed, not run, so that `amodal methods` does not wait for torch. Nothing of
`amodal.core` is imported here either, except for an error.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parent
STATUSES = ("planned", "done", "blocked")
EVIDENCE = ("reproduced", "not reproduced", "inconclusive", "no power", "needs scale")


@dataclass(frozen=True)
class Row:
    """One system of the catalogue.

    Attributes:
        key: its name; of a method, the name of its page.
        title: in a line.
        row: its number, None for a general method that the rows build on.
        family: of systems.
        paper: arXiv number.
        reference: code of the paper.
        licence: of that code.
        home: its file below `amodal`.
        status: one of STATUSES.
        loss: "yes" if a golden test of the whole page agrees with the paper and 90 % of its mutants
            are noticed.
        system: "yes" if the paper's kind of encoder, data, recipe and product can be had, and the
            page says under `Differs:` what is not as in the paper.
        learns: "yes" if it clears chance, an untrained encoder and simple features on a real set,
            with the figures on the page; "" where that is not measured.
        evidence: of the paper's claim, one of EVIDENCE; "" where it is not tried at that bar.
    """

    key: str
    title: str
    row: int | None = None
    family: str = ""
    paper: str = ""
    reference: str = ""
    licence: str = ""
    home: str = ""
    status: str = "done"
    loss: str = "no"
    system: str = "no"
    learns: str = ""
    evidence: str = ""


@cache
def rows() -> tuple[Row, ...]:
    """The numbered rows, in order."""
    return tuple(Row(**entry) for entry in _toml()["row"])


@cache
def general() -> tuple[Row, ...]:
    """The general methods that the rows build on."""
    return tuple(Row(**entry) for entry in _toml()["general"])


@cache
def _toml() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((ROOT / "catalog.toml").read_text(encoding="utf-8"))


def find(key: str) -> Row | None:
    """The row or general method of this key."""
    return next((r for r in (*rows(), *general()) if r.key == key), None)


def verdict(key: str) -> str:
    """What the ledger says about the claim of `key`; "" if it has not been run."""
    folder = ledger()
    file = folder / f"{key}.json" if folder else None
    return (
        str(json.loads(file.read_text(encoding="utf-8"))["verdict"])
        if file and file.exists()
        else ""
    )


@cache
def ledger() -> Path | None:
    """Where the distribution `amodal-claims` keeps what came of the claims, if it is installed."""
    found = importlib.util.find_spec("amodal_claims")
    return Path(found.origin).parent / "ledger" if found and found.origin else None


@dataclass(frozen=True)
class Page:
    """A page of `amodal/methods`, by its text; of a plug-in's method, with the name of its function
    and what brought it."""

    file: Path
    name: str = ""
    plugin: str = ""

    @cached_property
    def source(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def family(self) -> str:
        return f"plug-in {self.plugin}" if self.plugin else self.file.parent.name

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def headline(self) -> str:
        """What the method does, in a sentence."""
        return re.split(r"\.(?:\s|$)", self.docstring, maxsplit=1)[0].replace("\n", " ")

    @property
    def citation(self) -> str:
        """Authors, place and year, arXiv number."""
        rest = self.docstring.removeprefix(self.headline + ".").replace("\n", " ").strip()
        match = re.match(r".*?arXiv:\d{4}\.\d{4,5}", rest)
        return match[0] if match else re.split(r"\.\s", rest, maxsplit=1)[0]

    @cached_property
    def function(self) -> ast.FunctionDef | None:
        return next(
            (
                n
                for n in self.tree.body
                if isinstance(n, ast.FunctionDef) and n.name == (self.name or self.file.stem)
            ),
            None,
        )

    @property
    def options(self) -> list[tuple[str, str, str, str]]:
        """(name, type, default, description) of each option of the method."""
        if self.function is None:
            return []
        arguments = self.function.args
        names = [a.arg for a in arguments.kwonlyargs]
        descriptions = _descriptions(ast.get_docstring(self.function) or "", names)
        return [
            (
                a.arg,
                ast.unparse(a.annotation) if a.annotation else "",
                ast.unparse(default) if default else "",
                descriptions.get(a.arg, ""),
            )
            for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults)
        ]

    @property
    def encoder(self) -> dict[str, object]:
        """How the paper's encoder differs from the default one."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [
                "ENCODER"
            ]:
                return dict(ast.literal_eval(node.value))
        return {}

    @property
    def parts(self) -> dict[str, list[str]]:
        """Module -> the shared parts that the page imports from it."""
        imports: dict[str, list[str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PARTS):
                imports.setdefault(node.module, []).extend(
                    alias.name for alias in node.names if alias.name not in CONTRACT
                )
        return {module: names for module, names in sorted(imports.items()) if names}


PARTS = ("amodal.objectives", "amodal.masking", "amodal.nn", "amodal.methods.shared.shapes")
CONTRACT = {"Encoder", "Method", "Clock", "Features"}
"""Imports of every page, which therefore say nothing about one."""
ARGS = re.compile(r"^Args:\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
"""The section of a docstring that explains the parameters."""


def _descriptions(docstring: str, names: list[str]) -> dict[str, str]:
    """Name -> its description, from an `Args:` section, or from a docstring of the form
    "width: of the space; low, high: where it starts and ends."."""
    if not names:
        return {}
    section, name = ARGS.search(docstring), "|".join(names)
    if section:  # each description begins a line
        text, start = section[1], rf"^\s*((?:{name})(?:, (?:{name}))*)(?: \([^)]*\))?:\s"
    else:
        text = " ".join(docstring.split())
        start = rf"(?:^|[;.,(]? )((?:{name})(?:, (?:{name}))*): "
    matches = list(re.finditer(start, text, re.MULTILINE))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    descriptions: dict[str, str] = {}
    for match, end in zip(matches, ends):
        description = " ".join(text[match.end() : end].split()).rstrip(";.,")
        descriptions |= dict.fromkeys(match[1].split(", "), description)
    return descriptions


@cache
def pages() -> dict[str, Page]:
    """Name -> page, by the rule of `amodal.core.registry`."""
    files = sorted((ROOT / "methods").glob("*/*.py"))
    own = {
        f.stem: Page(f) for f in files if not f.stem.startswith("_") and f.parent.name != "shared"
    }
    return own | plugin_pages()


def plugin_pages() -> dict[str, Page]:
    """name -> page, for the methods of installed plug-ins that can be imported."""
    from amodal import methods
    from amodal.core import registry
    from amodal.core.references import underlying

    found = {}
    for name, function in registry.working("methods", methods.check_plugin).items():
        function = inspect.unwrap(underlying(function))
        function = function if hasattr(function, "__name__") else type(function)
        file = inspect.getsourcefile(function)
        if file is not None:
            brought = registry.plugins("methods")[name].distribution
            found[name] = Page(Path(file), function.__name__, brought)
    return found


def listing() -> RenderableType:
    """Tables of all methods, and of the rows that are no method."""
    table = Table("method", "family", "row", "paper", "loss", "system", "learns", "claim")
    for name, page in sorted(pages().items(), key=lambda item: (item[1].family, item[0])):
        row = find(name)
        number = str(row.row) if row and row.row else ""
        bar = (row.loss, row.system, row.learns or "?") if row else ("", "", "")
        table.add_row(
            f"[bold]{name}[/]",
            page.family,
            number,
            Text(page.citation),
            *bar,
            _coloured(verdict(name)),
        )
    parts = Table(
        "part", "where", "row", "claim", title="rows that are no method", title_justify="left"
    )
    for row in rows():
        if row.status == "done" and row.key not in pages():
            parts.add_row(
                f"[bold]{row.key}[/]",
                f"amodal/{row.home}",
                str(row.row),
                _coloured(verdict(row.key)),
            )
    planned = sum(r.status == "planned" for r in rows())
    return Group(
        table,
        parts,
        Text(
            f"{planned} more rows of the catalogue are planned. "
            "`amodal methods KEY` shows one, --source its page."
        ),
    )


def shown(key: str, source: bool = False) -> RenderableType:
    """What the catalogue has about one method or row.

    Of a method that is its paper, options with defaults, parts and claim. Of a row that is no
    method it is the docstring of its file. Of a planned row it is the title.

    Args:
        key: name of a method, or key or number of a row.
        source: show the text of the page instead.

    Raises:
        AmodalError: there is no such key; the nearest ones are offered. Also for a plug-in's method
            that cannot be used, and a name that two plug-ins have.
    """
    from amodal import methods
    from amodal.core import registry

    if ":" in key:
        return _shown_code(key, source)
    name = key.replace("-", "_")
    row = find(name) or next((r for r in rows() if str(r.row) == key), None)
    name = row.key if row else name
    plugin = registry.find_plugin("methods", name)
    if name in pages():
        page = pages()[name]
        return (
            Syntax(page.source, "python", word_wrap=True, background_color="default")
            if source
            else _shown(name, page, row)
        )
    if plugin is not None:
        plugin.load(methods.check_plugin)  # says why it is not among the pages
    if row is None:
        from amodal.errors import unknown

        raise unknown("method or row of the catalogue", key, {*pages(), *(r.key for r in rows())})
    lines = [row.title, f"row {row.row}, {row.family}{_arxiv(row)}"]
    if row.reference:
        lines.append(f"code of the paper: {row.reference} ({row.licence})")
    if row.status != "done":
        return Text("\n".join([f"{row.key} is {row.status}: there is no page for it yet.", *lines]))
    page = Page(ROOT / row.home)
    if source:
        return Syntax(page.source, "python", word_wrap=True, background_color="default")
    about = Text(
        "\n".join(
            [
                page.docstring,
                "",
                *lines,
                f"It is no method to pretrain with: see amodal/{row.home}.",
            ]
        )
    )
    return Group(about, Text.assemble("Claim: ", _coloured(verdict(row.key) or "not tested yet")))


def _shown_code(reference: str, source: bool) -> RenderableType:
    """A method that is the user's own code, `file.py:name`."""
    from amodal import methods

    function = methods.function(reference)
    page = Page(Path(str(inspect.getsourcefile(function))), function.__name__)
    if source:
        return Syntax(page.source, "python", word_wrap=True, background_color="default")
    return _shown(reference, page, None)


def _shown(name: str, page: Page, row: Row | None) -> RenderableType:
    from amodal.recipe_table import recipe_table

    parts: list[RenderableType] = [Text(page.docstring), Text()]
    if row and row.row:
        parts.append(Text(f"Row {row.row} of the catalogue: {row.title}{_arxiv(row)}"))
    if page.options:
        table = Table(
            "option",
            "type",
            "default",
            "what it is",
            title=f"--method.OPTION of {name}",
            title_justify="left",
        )
        for option in page.options:
            table.add_row(*map(Text, option))
        parts.append(table)
    if page.encoder:
        parts.append(
            Text("Default encoder: " + ", ".join(f"{k} = {v}" for k, v in page.encoder.items()))
        )
    if (recipes := recipe_table(name, page.tree)) is not None:
        parts.append(recipes)
    if page.parts:
        made = (f"{', '.join(names)} ({module})" for module, names in page.parts.items())
        parts.append(Text("Made of: " + "; ".join(made)))
    if not page.name:
        parts.append(Text.assemble("Claim: ", _coloured(verdict(name) or "not tested yet")))
    parts.append(Text(f"amodal pretrain {name} --data DIR --out RUN", style="bold"))
    return Group(*parts)


def _arxiv(row: Row) -> str:
    return f", arXiv:{row.paper}" if row.paper else ""


def _coloured(verdict: str) -> Text:
    return Text(
        verdict,
        style={"reproduced": "green", "not reproduced": "red", "inconclusive": "yellow"}.get(
            verdict, ""
        ),
    )
